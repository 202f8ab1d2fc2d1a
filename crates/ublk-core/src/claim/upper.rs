//! Which disk an overlay's upper belongs to, and which content it has, as its file says: a snapshot puts another file in its
//! place.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What the file of an upper begins with.
pub const MAGIC: &[u8; 16] = b"ublk-ts overlay\0";

/// Where in the file the upper itself is named.
pub const UUID: Range<usize> = 48..64;

/// Where the file says what is done with it.
pub const STATE: Range<usize> = 112..120;

/// Where in the file the disk is named.
pub const DISK: Range<usize> = 160..176;

/// Where in the file the last server that wrote to it has put a name of its own.
pub const SERVER: Range<usize> = 200..216;

/// Names the disk: the same before and after a snapshot.
pub fn disk_of(file: &File) -> io::Result<String> {
    let mut start = [0; DISK.end];
    match file.read_exact_at(&mut start, 0) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ if !start.starts_with(MAGIC) => return Ok("no upper of an overlay".into()),
        _ => {}
    }
    let digits: String = start[DISK].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("the upper of disk {digits}"))
}

/// Tells its content from that after other servers. The times of the file do not: what was written is saved after the last
/// request as well.
pub fn content_of(file: &File) -> io::Result<Vec<u8>> {
    let mut start = [0; SERVER.end];
    file.read_exact_at(&mut start, 0)?;
    Ok([UUID, STATE, SERVER].into_iter().flat_map(|part| start[part].to_vec()).collect())
}
