//! Block devices are opened exclusively: the kernel lets nobody mount them then, nor use them for swap, RAID or device
//! mapper, and refuses when somebody does already. It knows no shared claim. Disks that only read share a device by read
//! locks on its node: the first one of them has the kernel's claim.

use super::{Place, lock, reopen};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// `None`: somebody else has it.
pub fn claim(place: &Place<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    if place.writable {
        let Some(device) = exclusively(place)? else { return Ok(None) };
        return Ok(lock::try_lock(&device, true)?.then(|| vec![device.into()]));
    }
    let node = reopen(place, false, 0)?;
    if !lock::try_lock(&node, false)? {
        return Ok(None);
    }
    match exclusively(place)? {
        Some(device) => Ok(Some(vec![node.into(), device.into()])),
        None if lock::other(&node)?.is_some_and(|other| other.shared) => Ok(Some(vec![node.into()])),
        None => Ok(None),
    }
}

fn exclusively(place: &Place<'_>) -> io::Result<Option<File>> {
    match reopen(place, place.writable, libc::O_EXCL) {
        Ok(device) => Ok(Some(device)),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
        Err(error) => Err(error),
    }
}
