//! Which disk an overlay's upper belongs to, as its file says: a snapshot puts another file in its place.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What the file of an upper begins with.
pub const MAGIC: &[u8; 16] = b"ublk-ts overlay\0";

/// Where in the file the disk is named.
pub const DISK: Range<usize> = 160..176;

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
