//! Snapshots of an overlay that is in use, back to the last one, and without a base; the sides of a mirror.

use super::Device;
use super::state::State;
use crate::backend::{Backend, Commit, FlattenProgress, LayerInfo, SideInfo};
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use crate::nodes::Kind;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, MutexGuard};

nix::ioctl_none_bad!(blkflsbuf, 0x1261);

impl Device {
    /// Keeps the present content of a live disk under a name. No request fails or waits for another.
    pub fn snapshot(&self, name: &str) -> Result<()> {
        let (_state, backend) = self.live_backend()?;
        backend.snapshot(name, &|| {}).map_err(|error| error.device(self.id))
    }

    /// Throws away what was written to a live disk since its last snapshot. Requests wait meanwhile; what the kernel has of the
    /// disk in its buffers goes, too.
    pub fn reset(&self) -> Result<()> {
        let (_state, backend) = self.live_backend()?;
        if backend.layers().is_empty() {
            return backend.reset().map_err(|error| error.device(self.id)); // it refuses that
        }
        // Once before, so that nothing is written back later; and what was read meanwhile.
        self.drop_buffers()?;
        backend.reset().map_err(|error| error.device(self.id))?;
        self.drop_buffers()
    }

    /// Copies to a live disk's upper all that it lacks, at most `rate` bytes a second. Blocks until that is done, the disk is
    /// stopped, or the bound's token is used.
    pub fn flatten(&self, rate: Option<u64>, bound: &Bound) -> Result<()> {
        // It may be stopped meanwhile.
        let backend = self.live_backend()?.1;
        backend.flatten(rate, &|| bound.cancel.is_cancelled()).map_err(|error| error.device(self.id))
    }

    /// Puts into the file of a live disk's base all that was written to the disk before, and removes the layers that had it.
    /// `force`: also if it has snapshots. Blocks as [`flatten`](Self::flatten) does.
    pub fn commit(&self, rate: Option<u64>, force: bool, bound: &Bound) -> Result<()> {
        let (claims, backend) = {
            let (state, backend) = self.live_backend()?;
            let State::Live(serving) = &*state else { return Err(self.not_live(&state)) };
            (serving.claims().clone(), backend)
        };
        let given_up = || bound.cancel.is_cancelled();
        let how = Commit { rate, force, claims: &claims, given_up: &given_up };
        backend.commit(&how).map_err(|error| error.device(self.id))
    }

    /// How far that has come, while it is under way.
    pub fn committing(&self) -> Result<Option<FlattenProgress>> {
        Ok(self.backend()?.committing())
    }

    /// How far a flatten has come, while it is under way.
    pub fn flattening(&self) -> Result<Option<FlattenProgress>> {
        Ok(self.backend()?.flattening())
    }

    /// Fills the sides of a live mirror that lack something, at most `rate` bytes a second. Blocks as [`flatten`](Self::flatten)
    /// does.
    pub fn resync(&self, rate: Option<u64>, bound: &Bound) -> Result<()> {
        let backend = self.live_backend()?.1;
        backend.resync(rate, &|| bound.cancel.is_cancelled()).map_err(|error| error.device(self.id))
    }

    /// How far that has come, while it is under way.
    pub fn resyncing(&self) -> Result<Option<FlattenProgress>> {
        Ok(self.backend()?.resyncing())
    }

    /// The sides of a mirror; none of another disk.
    pub fn sides(&self) -> Result<Vec<SideInfo>> {
        Ok(self.backend()?.sides())
    }

    /// What was written over a base, the lowest layer first; none of a disk that is no overlay.
    pub fn layers(&self) -> Result<Vec<LayerInfo>> {
        Ok(self.backend()?.layers())
    }

    /// How much of each cell of so many bytes was written over a base: 0 none, 255 all. `None` of a disk that is no overlay.
    pub fn written_shares(&self, cell: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.backend()?.written_shares(cell))
    }

    /// Keeps the device as it is while its backend changes.
    pub(super) fn live_backend(&self) -> Result<(MutexGuard<'_, State>, Arc<dyn Backend>)> {
        let mut state = self.state();
        self.look(&mut state)?;
        if !matches!(*state, State::Live(_)) {
            return Err(self.not_live(&state));
        }
        self.stays()?;
        let backend = self.backend()?;
        Ok((state, backend))
    }

    /// Has the kernel write back what is in the disk's buffers, and forget them.
    pub(super) fn drop_buffers(&self) -> Result<()> {
        let path = Kind::Disk.path(self.id);
        let failed = |error: std::io::Error| {
            Error::system(format!("cannot drop the kernel's buffers of {path}"), &error)
                .kind(ErrorKind::System)
                .device(self.id)
        };
        let disk = File::open(&path).map_err(failed)?;
        // SAFETY: the ioctl takes no argument.
        unsafe { blkflsbuf(disk.as_raw_fd()) }.map(drop).map_err(|errno| failed(errno.into()))
    }
}
