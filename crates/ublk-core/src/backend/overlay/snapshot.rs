//! Snapshots of a disk that is in use: a new layer, which is written from one instant on.
//!
//! 1. The new upper is made, under the snapshot's name. Each queue's ring gets its file. Nothing has changed yet: what fails
//!    here leaves the disk as it was.
//! 2. The new upper and the old one exchange their names, durably.
//! 3. The number of the layer that is written grows by one. A write reads it when it starts. So this is one instant for all
//!    queues: a write that was answered before has the old number, and one that is started afterwards has the new one.
//! 4. On a thread of its own: writes with the old number are waited for, then the old upper is saved and sealed.
//!
//! A crash before 2 leaves the old upper at its path, and a file beside it that the next snapshot of that name replaces. After
//! 2, the path leads to the new upper, which names the old one as the layer below. So 2 comes before 3: otherwise writes
//! could be answered that are only in a file which nothing leads to. Until 4 has ended, a flush saves both uppers, the old one
//! first, so that all that was flushed is in their tables. Whoever opens such a chain seals the old upper.

use super::Overlay;
use super::layers::Written;
use super::queues::Hold;
use super::upper::{MOST_LAYERS, is_name_of_commit, no_name};
use crate::error::{Error, ErrorKind, Result};
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a queue may take for what it does between two requests.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The same for the end of writes, of which nobody knows how long they take.
const LONG: Duration = Duration::from_secs(3600);

/// How long requests wait at most for those before them when layers are not needed any more.
pub const BRIEF: Duration = Duration::from_millis(250);

/// How often it looks whether they have ended.
const PAUSE: Duration = Duration::from_millis(1);

fn unended() -> Error {
    Error::new(ErrorKind::Timeout, "the last snapshot is not complete yet")
        .hint("try again later: writes from before it, or the sync of its file, wait for the disk's storage")
}

impl Overlay {
    /// See the [module](self).
    pub fn take_snapshot(self: &Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        let _job = self.job.begin("given a snapshot")?;
        if is_name_of_commit(name) {
            return Err(no_name(name));
        }
        self.add_layer(name, now)
    }

    /// The same, whoever has begun with it.
    pub fn add_layer(self: &Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        let top = self.layers.top();
        let old = self.layers.of(top).kept.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "what is written to this disk is in memory: it has no snapshots",
            )
            .hint("make the overlay with an upper in a file")
        })?;
        self.finish_seal()?;
        let path = old.upper.path().display();
        if self.layers.count() == MOST_LAYERS {
            let message =
                format!("the upper {path} has {MOST_LAYERS} layers already, the most that are possible");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("flatten the disk, or commit it: it has one layer then"));
        }
        if self.layers.is_used_up() {
            let message =
                format!("this server of the upper {path} has made {top} layers, the most that it can");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("hand the disk over (upgrade), or delete it and create it again"));
        }
        let new = old.upper.prepare_snapshot(name)?;
        if let Some(reporter) = self.reporter() {
            new.upper().report_to(reporter);
        }
        let (file, number) = (Written::file_of(new.upper())?, top + 1);
        let (its, retired) = (file.clone(), self.layers.retired());
        let added = self
            .queues
            .each(PATIENCE, move |seat, files| seat.add(number, retired, its.file().as_fd(), files))?;
        added.into_iter().collect::<Result<()>>()?;
        let layer = Written::in_file(new.take_place_of(&old.upper)?, file);
        now();
        self.layers.add(layer);
        let this = self.clone();
        // A failure shows when it is tried again.
        let seal = move || {
            if let (Err(error), Some(reporter)) = (this.seal(top, LONG), this.reporter()) {
                reporter.report(format!(
                    "the layer below the last snapshot is not sealed yet: {}",
                    error.message
                ));
            }
        };
        let sealing = thread::Builder::new().name("overlay-seal".into()).spawn(seal);
        *self.sealing.lock().unwrap_or_else(PoisonError::into_inner) = sealing.ok();
        // Others can use the snapshot then. It is there already, and complete later.
        if let (Err(error), Some(reporter)) = (self.finish_seal(), self.reporter()) {
            reporter
                .report(format!("the snapshot {name} is made, and cannot be forked yet: {}", error.message));
        }
        Ok(())
    }

    /// Waits until nobody reads the layers that are not needed any more: for a moment new requests wait for those in flight.
    /// `false`: these take longer.
    pub fn retire_layers(&self) -> bool {
        let ended = {
            let _hold = Hold::new(&self.queues);
            self.queues.wait(BRIEF, |seat| !seat.is_busy()).unwrap_or(false)
        };
        if ended {
            self.layers.retire();
        }
        ended
    }

    /// Seals a layer to which no more writes are started.
    fn seal(&self, layer: u8, patience: Duration) -> Result<()> {
        if !self.queues.wait(patience, move |seat| !seat.is_changing(layer))? {
            return Err(unended());
        }
        if let Some(kept) = &self.layers.of(layer).kept {
            kept.upper.seal()?;
        }
        self.layers.sealed(layer);
        Ok(())
    }

    /// Waits until all layers but the one that is written are sealed.
    pub fn finish_seal(&self) -> Result<()> {
        let mut sealing = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + PATIENCE;
        while sealing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() > until {
                return Err(unended());
            }
            thread::sleep(PAUSE);
        }
        if let Some(thread) = sealing.take() {
            let _ = thread.join(); // a failure shows below
        }
        let unsealed = self.layers.unsealed();
        (*unsealed.start()..*unsealed.end()).try_for_each(|layer| self.seal(layer, PATIENCE))
    }
}
