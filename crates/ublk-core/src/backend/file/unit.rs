//! How much space a file system allocates for a file at once.

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The usual unit, and the least that matters here.
const LEAST: u64 = 4096;

/// In bytes. A part of it that becomes a hole frees nothing.
///
/// No call says it everywhere. `st_blksize` is the best size of an I/O: a megabyte on NFS, although that allocates less;
/// a block on an ext4 with larger clusters. `f_frsize` is a block there as well. So one block is allocated for a file
/// without a name beside this one, which then shows how much it takes up. Only of tmpfs `st_blksize` is right, and an
/// attempt is not, since it may find no huge page at that moment.
pub fn of(file: &File) -> u64 {
    let Ok(found) = file.metadata() else { return LEAST };
    if !found.is_file() {
        return LEAST; // a block device: nothing is allocated
    }
    let unit = match fstatfs(file) {
        Ok(system) if system.filesystem_type() == TMPFS_MAGIC => found.blksize(),
        _ => tried(file).unwrap_or(LEAST),
    };
    // Metadata may be counted as well.
    (unit / LEAST * LEAST).max(LEAST)
}

/// What one block of a new file takes up.
fn tried(file: &File) -> io::Result<u64> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let other = nameless(&path)?;
    let before = other.metadata()?.blocks();
    // SAFETY: plain numbers and an open descriptor.
    if unsafe { libc::fallocate(other.as_raw_fd(), 0, 0, LEAST.cast_signed()) } != 0 {
        other.write_all_at(&[1; 4096], 0)?;
        other.sync_all()?;
    }
    Ok(other.metadata()?.blocks().saturating_sub(before) * 512)
}

/// A file without a name on the same file system, if that can make one.
pub(super) fn nameless_beside(file: &File) -> Option<File> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let other = unnamed(path.parent()?).ok()?;
    (other.metadata().ok()?.dev() == file.metadata().ok()?.dev()).then_some(other)
}

fn unnamed(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(dir)
}

/// A file on the same file system, which is gone when it is closed.
fn nameless(beside: &Path) -> io::Result<File> {
    let dir = beside.parent().unwrap_or(Path::new("/"));
    if let Ok(file) = unnamed(dir) {
        return Ok(file);
    }
    // Not every file system can make one without a name.
    let mut path = beside.as_os_str().to_owned();
    path.push(".unit");
    let file = OpenOptions::new().read(true).write(true).mode(0o600).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_without_a_trace() {
        for dir in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
            let file = File::create(dir.path().join("file")).unwrap();
            file.set_len(8 << 20).unwrap();
            let unit = of(&file);
            assert!(unit.is_multiple_of(LEAST), "{unit}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            assert_eq!(file.metadata().unwrap().blocks(), 0);
        }
        assert_eq!(of(&File::open("/dev/null").unwrap()), LEAST);
    }
}
