//! A device's nodes in `/dev`: `/dev/ublkcN`, which its server opens, and `/dev/ublkbN`, the disk.

mod missing;

pub use missing::{Making, tidy};

use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use nix::unistd::{AccessFlags, access};
use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Which of a device's two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/dev/ublkcN`, the server's.
    Server,
    /// `/dev/ublkbN`, the disk.
    Disk,
}

impl Kind {
    /// Where it is.
    pub fn path(self, id: u32) -> String {
        match self {
            Self::Server => format!("/dev/ublkc{id}"),
            Self::Disk => format!("/dev/ublkb{id}"),
        }
    }

    /// The kernel's number for it, while there is such a device.
    pub fn number(self, id: u32) -> Option<libc::dev_t> {
        let path = match self {
            Self::Server => format!("/sys/class/ublk-char/ublkc{id}/dev"),
            Self::Disk => format!("/sys/class/block/ublkb{id}/dev"),
        };
        parse_number(&fs::read_to_string(path).ok()?)
    }

    /// Whether a file is such a node.
    pub fn is(self, file: &Metadata) -> bool {
        match self {
            Self::Server => file.file_type().is_char_device(),
            Self::Disk => file.file_type().is_block_device(),
        }
    }
}

/// "259:3"
fn parse_number(text: &str) -> Option<libc::dev_t> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// How often a node is looked for: devtmpfs makes it before the command returns, udev some milliseconds later.
pub const POLL: Duration = Duration::from_millis(2);

/// Tells one device from a later one of the same number: sysfs gives no number of an entry twice. `None` without
/// sysfs, or without the device.
pub fn identity(id: u32) -> Option<u64> {
    fs::metadata(format!("/sys/class/ublk-char/ublkc{id}/")).ok().map(|entry| entry.ino())
}

/// Opens the device for serving. The driver lets one server in, and the last one may still be leaving.
pub fn open_server_node(id: u32, bound: &Bound) -> Result<OwnedFd> {
    let making = Making::new(Kind::Server, id, Kind::Server.number(id));
    wait(making, bound, try_open)
}

/// Opens the node, unless another server still has it open or it is not there yet.
pub fn try_open(path: &str) -> io::Result<Option<OwnedFd>> {
    // Never waits for data; so said, the ring reads and writes it at once instead of by a thread of its own.
    match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until the disk's node is there and is that disk, not an older one of the same name.
pub fn wait_for_disk(id: u32, (major, minor): (u32, u32), bound: &Bound) -> Result<()> {
    wait(Making::new(Kind::Disk, id, Some(libc::makedev(major, minor))), bound, |_| Ok(Some(())))
}

/// Waits until the caller may use the node of an ordinary user's device: udev gives it to that user, some time after it
/// is there.
pub fn wait_for_access(id: u32, kind: Kind, bound: &Bound) -> Result<()> {
    // Its user may not make it.
    let waiting = Making::new(kind, id, None);
    wait(waiting, bound, |path| Ok(access(path, AccessFlags::R_OK | AccessFlags::W_OK).ok())).map_err(
        |error| {
            error.hint(
                "a udev rule has to give the nodes to the user who made the device: see docs/operations.md",
            )
        },
    )
}

/// Waits until a node is there, is the kernel's device of that name, and `ready`. Makes it where nobody else does.
fn wait<T>(
    mut making: Making,
    bound: &Bound,
    mut ready: impl FnMut(&str) -> io::Result<Option<T>>,
) -> Result<T> {
    let until = bound.until();
    loop {
        match making.look(&mut ready)? {
            Some(value) => return Ok(value),
            None => pause(making.id, bound, &making.path, until)?,
        }
    }
}

/// Sleeps for a moment, unless the wait is over.
pub fn pause(id: u32, bound: &Bound, path: &str, until: Instant) -> Result<()> {
    if bound.cancel.is_cancelled() {
        let message = format!("waiting for {path} was cancelled");
        return Err(Error::new(ErrorKind::Cancelled, message).device(id));
    }
    if Instant::now() >= until {
        let message = format!("{path} did not become usable in {:.1} s", bound.timeout.as_secs_f64());
        return Err(Error::new(ErrorKind::Timeout, message).device(id));
    }
    sleep(POLL);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_number("259:1048575\n"), Some(libc::makedev(259, 1_048_575)));
        assert_eq!(parse_number("259\n"), None);
        assert_eq!(parse_number(""), None);
    }
}
