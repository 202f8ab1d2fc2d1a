//! Throwing away what was written since the last snapshot, of a disk that is in use.

use super::Overlay;
use super::layers::Kept;
use super::queues::Hold;
use super::snapshot::PATIENCE;
use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::Ordering::Relaxed;

impl Overlay {
    /// New requests wait, those in flight are waited for, and then the upper is emptied: by one durable word in its header, so
    /// that after a crash it has all that it had, or nothing.
    pub fn empty(&self) -> Result<()> {
        let _job = self.job.begin("reset")?;
        if self.is_alone() && self.layers.lowest() == self.layers.top() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the disk was flattened: it has no base to go back to",
            )
            .hint("a reset goes back to the last snapshot: make one first"));
        }
        if let Some(Kept { upper, .. }) = &self.layers.written().kept
            && !upper.place().writable
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the upper {} is not written, so there is nothing to throw away",
                    upper.path().display()
                ),
            )
            .hint("the disk is read-only"));
        }
        self.finish_seal()?;
        let top = self.layers.top();
        let _hold = Hold::new(&self.queues);
        if !self.queues.wait(PATIENCE, |seat| !seat.is_busy())? {
            return Err(Error::new(ErrorKind::Busy, "the requests in flight do not end")
                .hint("try again when the disk is less busy"));
        }
        let (written, size) = (self.layers.of(top), self.size.load(Relaxed));
        if let Some(kept) = &written.kept {
            kept.upper.reset()?;
        } else {
            written.disk.resize(size, 0)?;
            written.disk.resize(0, size)?;
        }
        self.index.clear();
        for number in self.layers.lowest()..top {
            if let Some(kept) = &self.layers.of(number).kept {
                kept.upper.present(&mut |range| self.index.mark(range, number))?;
            }
        }
        Ok(())
    }
}
