//! Identifies the mount of the file system that a file is on: another mount of the same file system gives another number.

use nix::sys::stat::{major, minor};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Types of file systems that have a directory in `/sys/fs` for each mounted one, named by its block device.
const BY_DEVICE: [&str; 3] = ["ext4", "xfs", "f2fs"];

#[repr(C)]
struct SysfsPath {
    length: u8,
    name: [u8; 128],
}

// FS_IOC_GETFSSYSFSPATH, since 6.9.
nix::ioctl_read!(get_fs_sysfs_path, 0x15, 1, SysfsPath);

/// A number that changes if, within one boot, the file's file system was unmounted and mounted again, or its disk was
/// removed and added again; data in the page cache may be lost then. A further mount of it, as for containers, does not
/// change the number. 0: unknown.
pub fn of(file: &File) -> u64 {
    let Ok(found) = file.metadata() else { return 0 };
    let device = found.dev();
    let number = format!("{}:{}", major(device), minor(device));
    let block = fs::canonicalize(format!("/sys/dev/block/{number}")).ok();
    let name = block.as_deref().and_then(Path::file_name);
    // The kernel creates each of these, with a new inode number, when a file system is mounted or a disk appears.
    let dirs = [
        told(file),
        name.and_then(|name| {
            BY_DEVICE.iter().map(|kind| Path::new("/sys/fs").join(kind).join(name)).find(|dir| dir.exists())
        }),
        Some(PathBuf::from(format!("/sys/class/bdi/{number}"))),
        block.clone(),
    ];
    let inodes =
        dirs.into_iter().map(|dir| dir.and_then(|dir| fs::metadata(dir).ok()).map_or(0, |dir| dir.ino()));
    // Changes with the medium of a drive or the file of a loop device. A partition has its disk's number.
    let medium = block.and_then(|block| {
        [block.join("diskseq"), block.join("../diskseq")]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
    });
    let medium = medium.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    mixed(inodes.chain([medium]))
}

/// The file system's directory in `/sys/fs`, from the kernel.
fn told(file: &File) -> Option<PathBuf> {
    let mut path = SysfsPath { length: 0, name: [0; 128] };
    // SAFETY: the ioctl fills in a structure of this layout.
    unsafe { get_fs_sysfs_path(file.as_raw_fd(), &raw mut path) }.ok()?;
    let name = path.name.get(..path.length.into())?;
    Some(Path::new("/sys/fs").join(std::str::from_utf8(name).ok()?))
}

/// A hash of several numbers (FNV-1a); 0 if all are zero.
fn mixed(numbers: impl Iterator<Item = u64>) -> u64 {
    let (mut hash, mut known) = (0xcbf2_9ce4_8422_2325_u64, false);
    for number in numbers {
        known |= number != 0;
        for byte in number.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    if known { hash.max(1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_where_it_lies_whoever_asks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        assert_eq!(of(&File::open(&path).unwrap()), of(&File::open(&path).unwrap()));
        assert_eq!(mixed([0, 0].into_iter()), 0);
        assert_ne!(mixed([1, 0].into_iter()), mixed([0, 1].into_iter()));
    }
}
