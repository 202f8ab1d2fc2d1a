//! Devices that are started before their backend is known, with an [`Unbound`](crate::backend::Unbound) one. Their disk is
//! empty: the driver has what it needs of it but for the size. So a disk is usable as soon as its queues have their engines
//! and the driver has its size.

use super::Device;
use super::change::Change;
use super::claiming::claim;
use super::start::LEAVING;
use super::state::State;
use crate::backend::Backend;
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use crate::nodes::Kind;
use crate::spec::Recovery;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

nix::ioctl_none_bad!(blkrrpart, 0x125f);

/// How long a queue may take for what it does between two requests.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

impl Device {
    /// Whether it has no backend yet, and can be [bound](Self::bind) to one.
    pub fn is_unbound(&self) -> bool {
        self.backend().is_ok_and(|backend| backend.is_unbound())
    }

    /// Serves a live device that [has no backend](Self::is_unbound) with this one from now on. Its disk stays empty until it
    /// is [shown](Self::show).
    ///
    /// If it fails, and the device is still unbound, nothing has changed; else it can only be deleted.
    pub fn bind(&self, backend: Arc<dyn Backend>) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        let State::Live(serving) = &*state else { return Err(self.not_live(&state)) };
        if !self.is_unbound() {
            return Err(Error::new(ErrorKind::Busy, "the device has a backend already").device(self.id));
        }
        self.fits(&*backend).map_err(|error| error.device(self.id))?;
        let size = backend.properties().size;
        let claims = claim(&*backend, size, LEAVING).map_err(|error| error.device(self.id))?;
        *self.backend.lock().unwrap_or_else(PoisonError::into_inner) = Some(backend.clone());
        serving.bind(self, backend, claims, PATIENCE).map_err(|error| error.device(self.id))
    }

    /// Bytes: the size of its backend, which its disk has or is going to have.
    pub fn backend_size(&self) -> Result<u64> {
        Ok(self.backend()?.properties().size)
    }

    pub(super) fn fits(&self, backend: &dyn Backend) -> Result<()> {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.check_first_size(backend.properties().size)?;
        checked.fits(backend).map_err(|misfit| Error::invalid(misfit.message).hint(misfit.remedy))
    }

    /// Gives the disk the size of its backend: it is usable then.
    pub fn show(&self, bound: &Bound) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        if !matches!(*state, State::Live(_)) {
            return Err(self.not_live(&state));
        }
        let size = self.backend_size()?;
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.check_first_size(size)?;
        self.control.update_size(self.target, size, bound)?;
        checked.resized(size);
        drop(checked);
        let (id, scan) = (self.id, self.scan());
        if let (State::Live(serving), Some(change)) =
            (&mut *state, Change::begin("ublk-show", move || announce(id, scan)))
        {
            serving.changing(change);
        }
        Ok(())
    }
}

impl Device {
    fn scan(&self) -> Scan {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        match (checked.spec.partition_scan, self.recovery) {
            (false, _) => Scan::None,
            (true, None | Some(Recovery::Fail)) => Scan::Here,
            (true, Some(Recovery::Requeue | Recovery::Reissue)) => Scan::Apart,
        }
    }

    /// Does what the kernel does for a disk that appears.
    pub(super) fn announce(&self) {
        announce(self.id, self.scan());
    }
}

/// Who looks for partitions.
#[derive(Clone, Copy)]
enum Scan {
    None,
    /// A thread of this process.
    Here,
    /// Another process. If this one is killed, the requests of its disks wait for the next server, and so does who looks. That
    /// cannot be killed: a thread of this process would keep the device open forever.
    Apart,
}

/// Does what the kernel does for a disk that appears with its size, and not for one that was empty: it looks for partitions,
/// and tells udev. The disk works without both, which an ordinary user may not do, and the first may fail since somebody uses
/// the whole disk already, or a system lacks util-linux and busybox.
fn announce(id: u32, scan: Scan) {
    let disk = Kind::Disk.path(id);
    match scan {
        Scan::None => {}
        Scan::Here => {
            if let Ok(disk) = File::open(disk) {
                // SAFETY: the ioctl takes no argument.
                let _ = unsafe { blkrrpart(disk.as_raw_fd()) };
            }
        }
        Scan::Apart => {
            let mut helper = Command::new("blockdev");
            helper.arg("--rereadpt").arg(disk).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            helper.process_group(0); // Ctrl-C is not for it
            let _ = helper.status();
        }
    }
    let _ = fs::write(format!("/sys/class/block/ublkb{id}/uevent"), "change");
}
