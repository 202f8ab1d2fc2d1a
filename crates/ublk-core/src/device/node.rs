//! The device nodes: `/dev/ublkcN`, ours, and `/dev/ublkbN`, the user's disk.

use crate::control::Bound;
use crate::error::{Error, ErrorKind, Result};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a node is looked for: devtmpfs makes it before the command returns, udev some milliseconds later.
const POLL: Duration = Duration::from_millis(2);

/// Tells one device from a later one of the same number: sysfs gives no number of an entry twice. `None` without
/// sysfs, or without the device.
pub fn identity(id: u32) -> Option<u64> {
    fs::metadata(format!("/sys/class/ublk-char/ublkc{id}/")).ok().map(|entry| entry.ino())
}

/// Opens the device for serving. The driver lets one server in, and the last one may still be leaving.
pub fn open_char_device(id: u32, bound: &Bound) -> Result<OwnedFd> {
    let path = format!("/dev/ublkc{id}");
    wait(id, bound, &path, || match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT)) => Ok(None),
        Err(error) => Err(error),
    })
}

/// Waits until the disk's node is there and is that disk, not an older one of the same name.
pub fn wait_for_disk(id: u32, (major, minor): (u32, u32), bound: &Bound) -> Result<()> {
    let path = format!("/dev/ublkb{id}");
    wait(id, bound, &path, || match fs::metadata(&path) {
        Ok(node) if node.file_type().is_block_device() && node.rdev() == libc::makedev(major, minor) => {
            Ok(Some(()))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    })
}

/// Repeats a command while the driver answers EBUSY: the last server is still leaving.
pub fn retry_while_busy(bound: &Bound, mut command: impl FnMut() -> Result<()>) -> Result<()> {
    let until = bound.until();
    loop {
        match command() {
            Err(error)
                if error.kind == ErrorKind::Busy
                    && Instant::now() < until
                    && !bound.cancel.is_cancelled() =>
            {
                sleep(POLL);
            }
            done => return done,
        }
    }
}

fn wait<T>(
    id: u32,
    bound: &Bound,
    path: &str,
    mut ready: impl FnMut() -> io::Result<Option<T>>,
) -> Result<T> {
    let until = bound.until();
    loop {
        match ready() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if bound.cancel.is_cancelled() => {
                return Err(
                    Error::new(ErrorKind::Cancelled, format!("waiting for {path} was cancelled")).device(id)
                );
            }
            Ok(None) if Instant::now() >= until => {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{path} did not become usable in {:.1} s", bound.timeout.as_secs_f64()),
                )
                .hint("in a container, its /dev has to be the host's devtmpfs")
                .device(id));
            }
            Ok(None) => sleep(POLL),
            Err(error) => {
                let failed = Error::system(format!("cannot use {path}"), &error).device(id);
                return Err(match error.raw_os_error() {
                    Some(libc::EACCES | libc::EPERM) => {
                        failed.kind(ErrorKind::NoPermission).hint("run it as root (sudo)")
                    }
                    _ => failed,
                });
            }
        }
    }
}
