//! Opens block devices exclusively: the kernel then refuses to mount them or to use them for swap, RAID or device
//! mapper; if they are used so already, the open fails. The kernel has no shared claim: read-only disks share a device
//! by read locks on its node, and the first of them holds the kernel's claim.

use super::{Place, lock, reopen};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// `None`: it is claimed by another user.
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
