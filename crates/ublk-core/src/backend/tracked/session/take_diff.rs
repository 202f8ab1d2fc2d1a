//! The steps of a diff; see [`Diff`].

use super::{Running, Session, no_memory, over};
use crate::backend::reader::Reader;
use crate::backend::tracked::copier::{self, AT_ONCE, PART_BYTES, cannot_read, cannot_write};
use crate::backend::tracked::diff::{Diff, no_panic};
use crate::backend::{Backend, Sink};
use crate::error::{Error, ErrorKind, Result};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a queue may take for what it does between two requests, while the others wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long changes may take to end that were begun before the instant.
const LONG: Duration = Duration::from_secs(60);

impl Session {
    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes what was changed since a checkpoint, or everything, to `sink`.
    pub fn diff(
        &self,
        disk: Arc<dyn Backend>,
        since: Option<&str>,
        sink: &mut (dyn Sink + Send),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let size = self.begin_diff(since)?;
        let done = no_panic(|| self.run_diff(disk, since, size, sink, cancelled));
        let mut diff = None;
        self.change(|newest| diff = newest.diff.take());
        if let Some((diff, _)) = diff {
            diff.end(); // if it has panicked
        }
        let mut running = self.running();
        if !matches!(&*running, Running::Never) {
            *running = Running::None;
        }
        done
    }

    /// The size of the disk, which does not change from here on.
    fn begin_diff(&self, since: Option<&str>) -> Result<u64> {
        let kept = self.kept()?;
        since.map_or(Ok(0), |since| kept.position(since))?;
        let mut running = self.running();
        match &*running {
            Running::None => *running = Running::Begun,
            Running::Never => return Err(over()),
            Running::Resizing => {
                return Err(Error::new(ErrorKind::Busy, "the disk is being resized")
                    .hint("wait until that has ended"));
            }
            Running::Begun | Running::Diff(_) => {
                return Err(Error::new(ErrorKind::Busy, "another diff of the disk is under way")
                    .hint("wait until it has ended"));
            }
        }
        Ok(kept.size)
    }

    fn run_diff(
        &self,
        disk: Arc<dyn Backend>,
        since: Option<&str>,
        size: u64,
        sink: &mut (dyn Sink + Send),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        sink.begin(size).map_err(|error| cannot_write(&error))?;
        let diff = Arc::new(Diff::new(size, sink.unit()).map_err(|error| no_memory(&error))?);
        let aside = sink.aside();
        let _apart = diff.apart_when_dropped();
        let reader = {
            // Locked, so that the session does not end before: another server may use the disk's files then.
            let mut running = self.running();
            if matches!(&*running, Running::Never) {
                return Err(over());
            }
            let reader = Reader::new(disk, AT_ONCE, PART_BYTES, self.reporter.clone())?;
            *running = Running::Diff(diff.clone());
            reader
        };
        let take = |reader: &mut Reader| self.take(since, &diff, reader, cancelled);
        copier::run(&diff, reader, &aside, sink, cancelled, take)
    }

    /// From watching to the end of all changes from before the instant. The reader is one of the disk's queues meanwhile: it
    /// answers whoever waits for all of them.
    fn take(
        &self,
        since: Option<&str>,
        diff: &Arc<Diff>,
        reader: &mut Reader,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let mut idle = || reader.idle().map_err(cannot_read);
        // Changes from before an earlier diff, which may have failed before they ended.
        let epoch = self.newest().epoch;
        self.wait_for_changes(epoch + 1, diff, &mut idle, cancelled)?;
        self.change(|newest| {
            newest.diff = Some((diff.clone(), false));
            newest.epoch += 1;
        });
        // One that was in flight at the checkpoint is in its table only when it has ended.
        self.wait_for_changes(epoch, diff, &mut idle, cancelled)?;
        {
            let kept = self.kept()?;
            let entries = since.map(|since| Ok(&kept.entries[kept.position(since)?..])).transpose()?;
            match entries.filter(|entries| entries.iter().all(|entry| entry.known)) {
                Some(entries) => entries.iter().for_each(|entry| diff.note_table(Some(&entry.bits))),
                None => diff.note_table(None),
            }
        }
        self.change(|newest| {
            newest.diff = Some((diff.clone(), true)); // this is the instant
            newest.epoch += 1;
        });
        self.seats.meet(epoch + 1, PATIENCE, &mut idle)?;
        diff.release_others();
        self.wait_for_changes(epoch + 1, diff, &mut idle, cancelled)
    }

    /// Waits until no change of that epoch is under way. Each queue knows of the next one afterwards.
    fn wait_for_changes(
        &self,
        epoch: u64,
        diff: &Diff,
        idle: &mut dyn FnMut() -> Result<()>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let (until, mut pause) = (Instant::now() + LONG, Duration::from_micros(100));
        while self.seats.meet(epoch, PATIENCE, idle)? > 0 && !diff.is_over() {
            idle()?;
            if cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "the diff was cancelled"));
            }
            if Instant::now() > until {
                return Err(Error::new(ErrorKind::Timeout, "writes from before the diff do not end")
                    .hint("try again when they have: what they wait for is the disk's storage"));
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1)); // requests may wait for this
        }
        Ok(())
    }

    /// The session is over: nothing reads the disk any more.
    pub(super) fn end_diff(&self) {
        let running = std::mem::replace(&mut *self.running(), Running::Never);
        if let Running::Diff(diff) = running {
            diff.abandon(over());
        }
    }
}
