//! What files that hold a map have in common: the map says which data beside it counts, so a new one must be whole before it
//! is used, and what a killed server left in it is trusted only where the page cache still has it.

mod mount;
mod order;
mod stamp;

#[cfg(feature = "testing")]
pub use order::MapFirst;
pub use order::is_data_first;
pub use stamp::Stamp;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Whether a file has no header: it is empty or all zeroes, since its creator died before it wrote one. One that is longer
/// than the creator would have made it is not read to its end, which may be far away.
pub fn blank(file: &File, length: usize) -> io::Result<bool> {
    let (mut bytes, mut offset) = (vec![0; 1 << 16], 0);
    if file.metadata()?.len() > length.max(bytes.len()) as u64 {
        return Ok(false);
    }
    loop {
        match file.read_at(&mut bytes, offset)? {
            0 => return Ok(true),
            count if bytes[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            count => offset += count as u64,
        }
    }
}

/// FNV-1a of 64 bits.
pub fn checksum(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Allocates the file's blocks now: if a later write found no space, its request would fail.
pub fn allocate(file: &File, length: usize) -> io::Result<()> {
    match nix::fcntl::posix_fallocate(file, 0, length.cast_signed() as libc::off_t) {
        Err(nix::Error::EOPNOTSUPP | nix::Error::EINVAL) => file.set_len(length as u64),
        done => done.map_err(io::Error::from),
    }
}

/// Makes durable that the file is there, under its present name.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// The directory that a file is in.
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
