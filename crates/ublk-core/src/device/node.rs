//! The device nodes: `/dev/ublkcN`, ours, and `/dev/ublkbN`, the user's disk.

use super::static_dev::{Kind, Making};
use crate::abi::sys::{self, ublksrv_ctrl_dev_info};
use crate::control::{Bound, Control, Target};
use crate::error::{Error, ErrorKind, Result};
use nix::unistd::{AccessFlags, access};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
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
    let making = Making::new(Kind::Server, id, Kind::Server.number(id));
    wait(making, bound, try_open)
}

fn try_open(path: &str) -> io::Result<Option<OwnedFd>> {
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
/// is there. Root's devices need no waiting.
pub fn wait_for_access(device: Target, kind: Kind, bound: &Bound) -> Result<()> {
    if !device.by_path {
        return Ok(());
    }
    // Its user may not make it.
    let waiting = Making::new(kind, device.id, None);
    wait(waiting, bound, |path| Ok(access(path, AccessFlags::R_OK | AccessFlags::W_OK).ok())).map_err(
        |error| {
            error.hint(
                "a udev rule has to give the nodes to the user who made the device: see docs/operations.md",
            )
        },
    )
}

/// How long a server that was killed may seem to run.
const DYING: Duration = Duration::from_secs(1);

/// Waits until the server of a recoverable device has gone, and returns what the driver then says of it. Fails at once
/// if the device is not recoverable, and soon if its server is there to stay.
pub fn wait_for_server_to_leave(control: &Control, id: u32, bound: &Bound) -> Result<ublksrv_ctrl_dev_info> {
    let (began, until) = (Instant::now(), bound.until());
    loop {
        let info = control.info(id, bound)?;
        let state = u32::from(info.state);
        if info.flags & u64::from(sys::UBLK_F_USER_RECOVERY) == 0 {
            return Err(Error::new(ErrorKind::Unsupported, format!("device {id} cannot be taken over"))
                .hint("it was made without recovery")
                .device(id));
        }
        if matches!(state, sys::UBLK_S_DEV_QUIESCED | sys::UBLK_S_DEV_FAIL_IO) {
            return Ok(info);
        }
        if state != sys::UBLK_S_DEV_LIVE {
            return Err(Error::new(ErrorKind::NotFound, format!("device {id} has no disk to take over"))
                .hint("it was stopped, or never started")
                .device(id));
        }
        let others = info.ublksrv_pid != std::process::id().cast_signed() && runs(info.ublksrv_pid);
        if others && began.elapsed() >= DYING || Instant::now() >= until || bound.cancel.is_cancelled() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("device {id} is served by process {}", info.ublksrv_pid),
            )
            .hint("only a device that nobody serves can be taken over")
            .device(id));
        }
        sleep(POLL);
    }
}

/// Whether a process is there and is not just ending.
fn runs(pid: i32) -> bool {
    // pid (name) state …; the name may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Opens a recoverable device to take it over. Of several that try, one gets it; the others hear of that when it serves.
pub fn open_to_recover(control: &Control, device: Target, bound: &Bound) -> Result<OwnedFd> {
    let mut making = Making::new(Kind::Server, device.id, Kind::Server.number(device.id));
    let until = bound.until();
    loop {
        wait_for_server_to_leave(control, device.id, bound)?;
        let opened = match control.start_recovery(device, bound) {
            Ok(()) => making.look(try_open)?,
            // The last server is still leaving.
            Err(error) if error.kind == ErrorKind::Busy => None,
            Err(error) => return Err(error),
        };
        match opened {
            Some(file) => return Ok(file),
            None => pause(device.id, bound, &making.path, until)?,
        }
    }
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
fn pause(id: u32, bound: &Bound, path: &str, until: Instant) -> Result<()> {
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
