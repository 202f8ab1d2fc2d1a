//! How the files of images are read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Fills the buffer from an offset on; what is behind the end of the file is zero.
pub fn read_or_zero(file: &File, mut data: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.read_at(data, offset) {
            Ok(0) => {
                data.fill(0);
                return Ok(());
            }
            Ok(done) => {
                data = &mut data[done..];
                offset += done as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
