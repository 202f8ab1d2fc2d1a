//! Whether the kernel lets somebody have a disk for himself: it does not while the disk is mounted in any namespace,
//! or lazily unmounted and still busy, is swapped to, or is a part of another device.

use super::sysfs;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

/// What the kernel answers to an exclusive open.
pub(super) enum Claim {
    /// Nobody has the disk for himself; as long as this is kept, nobody will.
    Free(File),
    /// Somebody has it.
    Taken,
    /// There is no disk.
    NoDisk,
    /// It cannot be asked, for that reason.
    Unknown(std::io::Error),
}

/// Asks the kernel. While somebody else reads the disk's partition table this waits, and no signal ends that wait: to
/// be called only while no request waits for its answer.
pub(super) fn claim(id: u32) -> Claim {
    let flags = libc::O_EXCL | libc::O_NONBLOCK;
    match OpenOptions::new().read(true).custom_flags(flags).open(format!("/dev/ublkb{id}")) {
        Ok(file) => Claim::Free(file),
        Err(error) => match error.raw_os_error() {
            Some(libc::EBUSY) => Claim::Taken,
            Some(libc::ENXIO | libc::ENODEV) => Claim::NoDisk,
            Some(libc::ENOENT) if sysfs::activity(id).is_none() => Claim::NoDisk,
            _ => Claim::Unknown(error),
        },
    }
}
