//! Opens a disk exclusively. The kernel refuses that while the disk is mounted in any namespace, or lazily unmounted
//! and still busy, is swapped to, or is a part of another device.

use super::sysfs;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

/// The result of an exclusive open.
pub(super) enum Claim {
    /// The disk was free; while this is kept, no other exclusive open succeeds.
    Free(File),
    /// The disk is in use.
    Taken,
    /// There is no disk.
    NoDisk,
    /// The open failed for another reason.
    Unknown(std::io::Error),
}

/// Tries the open. It waits while the kernel reads the disk's partition table, and no signal ends that wait: to be
/// called only while no request is in flight.
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
