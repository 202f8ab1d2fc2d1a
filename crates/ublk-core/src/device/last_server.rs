//! Waits for a device's last server, which another one is to follow.

use crate::abi::sys::{self, ublksrv_ctrl_dev_info};
use crate::bound::Bound;
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::nodes::{self, Kind, Making};
use std::fs;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server that was killed may seem to run.
const DYING: Duration = Duration::from_secs(1);

/// Waits until the server of a recoverable device has gone, and returns what the driver then says of it. Fails at once
/// if the device is not recoverable, and soon if its server is there to stay.
pub fn wait_to_leave(control: &Control, id: u32, bound: &Bound) -> Result<ublksrv_ctrl_dev_info> {
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
        sleep(nodes::POLL);
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
        wait_to_leave(control, device.id, bound)?;
        let opened = match control.start_recovery(device, bound) {
            Ok(()) => making.look(nodes::try_open)?,
            // The last server is still leaving.
            Err(error) if error.kind == ErrorKind::Busy => None,
            Err(error) => return Err(error),
        };
        match opened {
            Some(file) => return Ok(file),
            None => nodes::pause(device.id, bound, &making.path, until)?,
        }
    }
}
