//! Puts what was written over a base file into that file, while the disk is in use.
//!
//! The layer that is written becomes a snapshot of the commit's own, so that what is put into the base does not change. Reads
//! find it in the layers until the base has all of it, durably; then the index forgets the layers. See
//! [`put`](crate::backend::overlay::upper::put) for the order in which files change, and what a crash leaves.

use super::{check_raw, is_regular, over_snapshots, stamp};
use crate::backend::map_file::directory;
use crate::backend::overlay::index::Layer;
use crate::backend::overlay::layers::Kept;
use crate::backend::overlay::room;
use crate::backend::overlay::snapshot::BRIEF;
use crate::backend::overlay::upper::{Copying, MOST_LAYERS, Put, Upper, name_of_commit};
use crate::backend::overlay::{Overlay, identity_of};
use crate::claim::{Claims, Sole};
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use std::cell::Cell;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, RwLockReadGuard, TryLockError, Weak};
use std::time::{Duration, Instant};

/// The most bytes of a part.
const PART: u64 = 1 << 20;
/// The fewest, at a low rate.
const LEAST: u64 = 64 << 10;

/// Parts consist of these.
const BLOCK: u64 = 4096;

/// How often it tries to empty the layers.
const TRIES: u32 = 4;

/// How a disk is committed.
#[derive(Clone, Copy)]
pub struct Commit<'a> {
    /// The most bytes to copy per second.
    pub rate: Option<u64>,
    /// Also if it has snapshots, which cannot be used any more then.
    pub force: bool,
    /// The claims of the disk on its files.
    pub claims: &'a Weak<Mutex<Claims>>,
    /// Whether to end it.
    pub given_up: &'a dyn Fn() -> bool,
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

impl Overlay {
    /// See the [module](self). Blocks until the base has all that was written before, or it fails.
    pub fn put_into_base(self: &std::sync::Arc<Self>, how: &Commit<'_>) -> Result<()> {
        let _job = self.job.begin("committed")?;
        self.commit_goes_on(how)?;
        let base = self.check_commit(how.force)?;
        let Some(place) = self.base.places().into_iter().next() else {
            return Err(unsupported("the base has no file, so nothing can be put into it"));
        };
        let _nobody = self.below.try_write().map_err(|_| {
            Error::new(ErrorKind::Busy, "a diff of the disk reads its snapshots")
                .hint("wait until it has ended")
        })?;
        let sole = Sole::take(&place, how.claims)?;
        check_raw(base, place.path)?;
        self.check_base_is_the_same()?;
        // What it allocates must not wait for this disk.
        let _flusher = IoFlusher::new();
        let _progressing = self.job.progressing("committed");
        if self.layers.count() == MOST_LAYERS {
            self.wait_for_seal(how)?; // the last snapshot may be there before its writes have ended
            self.put_layers(how, sole.file(), place.path)?; // then there is room for one more
        }
        self.seal_for_commit(how)?;
        self.put_layers(how, sole.file(), place.path)
    }

    /// Puts what lies below the layer that is written into the base, which is that file.
    fn put_layers(&self, how: &Commit<'_>, base: &fs::File, path: &Path) -> Result<()> {
        let layers = self.layers.lowest()..self.layers.top();
        let (written, mut began) = (self.written_file()?, Instant::now());
        let size = self.size();
        let mut pace = |at, copied: u64| {
            self.job.is_at(at, size);
            if let (Some(rate), true) = (how.rate, copied > 0) {
                let due = Duration::from_secs_f64(copied as f64 / rate.max(1) as f64);
                self.job.pause(due.saturating_sub(began.elapsed()), how.given_up);
            }
            began = Instant::now();
            self.commit_goes_on(how).map_err(|_| io::ErrorKind::Interrupted.into())
        };
        let most = how.rate.map_or(PART, |rate| (rate / 8).clamp(LEAST, PART) / BLOCK * BLOCK);
        let full = Cell::new(None);
        // The disk's upper is often in the same file system.
        let room = |bytes| match room::too_little(base, bytes) {
            None => Ok(()),
            Some(little) => {
                full.set(Some(little));
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
        };
        let put = Put {
            copying: Copying { base, size, most, pace: &mut pace, room: &room },
            into: super::which(base)?,
            stamp: &|| stamp(base),
        };
        let name = || identity_of(&*self.base).map_err(|error| io::Error::other(error.message));
        let uppers: Vec<_> = layers.clone().filter_map(|layer| self.upper_of(layer)).collect();
        self.commit_goes_on(how)?; // from here on the base changes
        written.upper.put_below(&uppers, put, &name).map_err(|error| {
            if let Err(ended) = self.commit_goes_on(how) {
                return ended;
            }
            if let Some(little) = full.get() {
                let what = format!("the base {}", path.display());
                return little.error(&what, "commit it again: nothing is lost");
            }
            let (upper, base) = (written.upper.path().display(), path.display());
            Error::system(format!("cannot put what is below {upper} into {base}"), &error)
                .kind(ErrorKind::Backend)
                .hint("nothing is lost: commit it again")
        })?;
        // The base has all of it. Whatever is left of the layers does no harm, and is removed when the disk is opened the next time.
        let retired = self.forget_below(layers.end);
        if !retired {
            self.tell("the layers that were committed are still read, so their space is free later".into());
        }
        if let Err(error) = written.upper.remove_below(if retired { &uppers } else { &[] }) {
            self.tell(format!(
                "the disk is committed, but not all of its layers are removed: {}",
                error.message
            ));
        }
        Ok(())
    }

    /// Whether the disk can be committed. The file of its base.
    fn check_commit(&self, force: bool) -> Result<&fs::File> {
        let kept = self.layers.written().kept.as_ref().ok_or_else(|| {
            unsupported("what is written to this disk is in memory: it cannot be committed")
                .hint("make the overlay with an upper in a file")
        })?;
        let path = kept.upper.path();
        if !kept.upper.place().writable {
            return Err(unsupported(format!("the upper {} is not written", path.display()))
                .hint("the disk is read-only"));
        }
        if self.is_alone() {
            return Err(unsupported(format!(
                "the upper {} needs no base, so it cannot be put into one",
                path.display()
            ))
            .hint("copy its disk"));
        }
        let file = self.base.plain_file().filter(|file| is_regular(file)).ok_or_else(|| {
            unsupported("the base is no file with the disk's bytes at their own offsets")
                .hint("copy the disk; if the base is a block device, delete the disk and commit its upper")
        })?;
        let (size, base) = (self.size(), self.base.properties().size);
        if size > base {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("the disk has {size} bytes, and its base only {base}"),
            )
            .hint("shrink the disk; or delete it and commit its upper, which enlarges the base"));
        }
        let snapshots = self.uppers_below().filter(|layer| layer.is_spoilt_by_commit(&kept.upper)).count();
        if snapshots > 0 && !force {
            return Err(over_snapshots(path, snapshots));
        }
        Ok(file)
    }

    /// The layer that is written so far changes no more.
    fn seal_for_commit(self: &std::sync::Arc<Self>, how: &Commit<'_>) -> Result<()> {
        self.commit_goes_on(how)?;
        let path = self.written_file()?.upper.path().to_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_free = |number: &u32| {
            let snapshot = format!("{name}.{}", name_of_commit(*number));
            directory(&path).join(snapshot).symlink_metadata().is_err()
        };
        let number = (1..=u32::MAX).find(is_free).unwrap_or(u32::MAX);
        self.add_layer(&name_of_commit(number), &|| {})?;
        self.wait_for_seal(how)
    }

    /// Waits until the layers below the one that is written change no more, however long that takes.
    fn wait_for_seal(&self, how: &Commit<'_>) -> Result<()> {
        loop {
            match self.finish_seal() {
                Err(error) if error.kind == ErrorKind::Timeout => self.commit_goes_on(how)?,
                sealed => return sealed,
            }
        }
    }

    fn commit_goes_on(&self, how: &Commit<'_>) -> Result<()> {
        let partly = self.written_file().is_ok_and(|kept| kept.upper.is_putting());
        let hint = match partly {
            true => {
                "commit it again to go on: until then the base is partly the old one, and only this disk's"
            }
            false => "nothing is lost: commit it again later",
        };
        if self.job.has_ended() {
            return Err(
                Error::new(ErrorKind::Closed, "the disk was stopped before it was committed").hint(hint)
            );
        }
        if (how.given_up)() {
            return Err(Error::new(ErrorKind::Cancelled, "the commit was cancelled").hint(hint));
        }
        Ok(())
    }

    /// The base has all that the layers below that one have: from here on it is read from there. Whether nobody reads the layers
    /// any more.
    fn forget_below(&self, top: Layer) -> bool {
        self.layers.needs_none_below();
        self.index.forget_below(top);
        (0..TRIES).any(|number| {
            if number > 0 {
                self.job.pause(BRIEF * number, &|| false);
            }
            self.retire_layers()
        })
    }

    fn tell(&self, message: String) {
        if let Some(reporter) = self.reporter() {
            reporter.report(message);
        }
    }

    fn written_file(&self) -> Result<&Kept> {
        let kept = self.layers.written().kept.as_ref();
        kept.ok_or_else(|| unsupported("what is written to this disk is in memory"))
    }

    fn upper_of(&self, layer: Layer) -> Option<&Upper> {
        self.layers.of(layer).kept.as_ref().map(|kept| &*kept.upper)
    }

    /// Those of the layers that are needed and not written.
    fn uppers_below(&self) -> impl Iterator<Item = &Upper> {
        let below: Range<Layer> = self.layers.lowest()..self.layers.top();
        below.filter_map(|layer| self.upper_of(layer))
    }

    /// What lies below the layer that is written does not change until the guard is dropped.
    pub(in crate::backend::overlay) fn keep_below(&self) -> Result<RwLockReadGuard<'_, ()>> {
        match self.below.try_read() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(guard)) => Ok(guard.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Busy, "the disk is being committed")
                .hint("wait until that has ended, or end it")),
        }
    }
}
