//! What was written to an overlay, layer upon layer. A snapshot adds one, and none goes as long as the disk is
//! served: a flatten and a commit only make those below the last one unneeded.

use super::index::Layer;
use super::upper::Upper;
use crate::backend::{Backend, File};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Errno;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Acquire, Release, SeqCst},
};
use std::sync::{Arc, OnceLock};

/// The number of the lowest layer over the base.
pub const FIRST: Layer = 1;

/// The most numbers of layers that a server has: those of layers that are not needed any more are not used again.
pub const MOST: Layer = 64;

/// A layer, for those who look at a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Its file; `None`: it is in memory.
    pub path: Option<PathBuf>,
    /// How many bytes the file takes up, with its tables; 0 in memory.
    pub bytes: u64,
    /// Whether it is written: the others stay as they are.
    pub written: bool,
}

/// A layer over the base.
pub struct Written {
    /// Where its data is.
    pub disk: Arc<dyn Backend>,
    /// Where the disk's first byte is there.
    pub start: u64,
    /// The file, if it is not in memory.
    pub kept: Option<Kept>,
}

/// What a layer in a file has beside the data.
pub struct Kept {
    pub upper: Arc<Upper>,
    /// The same file as a disk.
    pub file: Arc<File>,
    /// A durable write or a flush has failed: the next flush saves, even if nothing is noted.
    suspect: AtomicBool,
}

impl Written {
    /// In a file.
    pub fn kept(upper: Arc<Upper>) -> Result<Self> {
        Self::file_of(&upper).map(|file| Self::in_file(upper, file))
    }

    /// An upper's file as a disk.
    pub fn file_of(upper: &Upper) -> Result<Arc<File>> {
        let path = upper.path();
        let file = upper.file().try_clone().map_err(|error| {
            Error::system(format!("cannot use {}", path.display()), &error).kind(ErrorKind::Backend)
        })?;
        File::of(file, path, !upper.place().writable).map(Arc::new)
    }

    /// In this file, which is the upper's.
    pub fn in_file(upper: Arc<Upper>, file: Arc<File>) -> Self {
        let (disk, start) = (file.clone(), upper.data_offset());
        Self { disk, start, kept: Some(Kept { upper, file, suspect: AtomicBool::new(false) }) }
    }

    /// Whether it has all of the disk, and needs nothing below it.
    pub fn is_alone(&self) -> bool {
        let alone = |kept: &Kept| kept.upper.stands_alone() && kept.upper.parent().is_none();
        self.kept.as_ref().is_some_and(alone)
    }

    /// How it looks.
    pub fn info(&self, written: bool) -> LayerInfo {
        let path = self.kept.as_ref().map(|kept| kept.upper.path().to_owned());
        let bytes = self.kept.as_ref().map_or(0, |kept| kept.upper.bytes());
        LayerInfo { path, bytes, written }
    }
}

impl Kept {
    /// Whether a flush of the data is not enough.
    pub fn needs_save(&self) -> bool {
        self.upper.unsaved() || self.suspect.swap(false, SeqCst)
    }

    /// A flush or a durable write has failed: data that was written may be lost, and no map may count it as saved.
    ///
    /// Other errors than EIO are those of the request itself, such as a full file system. But a sync may have failed before:
    /// the kernel reports that once to each open file. The upper has its own, so its next save finds out.
    pub fn sync_failed(&self, errno: Errno) {
        if errno == libc::EIO {
            self.upper.poison();
        }
        self.suspect.store(true, SeqCst);
    }
}

/// See the [module](self).
pub struct Layers {
    all: [OnceLock<Written>; MOST as usize],
    /// The number of the one that is written: a snapshot is the instant at which it grows.
    top: AtomicU8,
    /// Nobody writes to this one and those below it any more.
    sealed: AtomicU8,
    /// Nobody begins to read those below this one any more.
    lowest: AtomicU8,
    /// Nobody reads those below this one any more.
    retired: AtomicU8,
}

impl Layers {
    /// At least one, the lowest first; the last is written, and the others are sealed.
    pub fn new(layers: Vec<Written>) -> Self {
        let this = Self {
            all: [const { OnceLock::new() }; MOST as usize],
            top: AtomicU8::new(0),
            sealed: AtomicU8::new(0),
            lowest: AtomicU8::new(FIRST),
            retired: AtomicU8::new(FIRST),
        };
        layers.into_iter().for_each(|layer| this.add(layer));
        this.sealed.store(this.top() - 1, Release);
        this
    }

    /// The number of the layer that is written.
    #[inline]
    pub fn top(&self) -> Layer {
        self.top.load(Acquire)
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none with that number.
    #[inline]
    pub fn of(&self, number: Layer) -> &Written {
        match self.all[usize::from(number - FIRST)].get() {
            Some(layer) => layer,
            None => unreachable!("a layer is there before its number is used"),
        }
    }

    /// The one that is written.
    pub fn written(&self) -> &Written {
        self.of(self.top())
    }

    /// The same, to be changed.
    #[cfg(test)]
    pub fn written_mut(&mut self) -> &mut Written {
        let at = usize::from(self.top() - FIRST);
        self.all[at].get_mut().unwrap()
    }

    /// All, the lowest first.
    pub fn all(&self) -> impl Iterator<Item = &Written> {
        self.all.iter().take(self.top().into()).map_while(OnceLock::get)
    }

    /// The number of the lowest layer that is needed.
    pub fn lowest(&self) -> Layer {
        self.lowest.load(Acquire)
    }

    /// The one that is written needs none of those below it.
    pub fn needs_none_below(&self) {
        self.lowest.store(self.top(), Release);
    }

    /// How many are needed.
    pub fn count(&self) -> usize {
        usize::from(self.top() - self.lowest()) + 1
    }

    /// Whether there is no number for another one.
    pub fn is_used_up(&self) -> bool {
        self.top() == MOST
    }

    /// All reads of those that are not needed have ended.
    pub fn retire(&self) {
        self.retired.store(self.lowest(), Release);
    }

    /// The lowest that may be read.
    pub fn retired(&self) -> Layer {
        self.retired.load(Acquire)
    }

    /// From here on, this one is written.
    pub fn add(&self, layer: Written) {
        let top = self.top();
        assert!(self.all[usize::from(top)].set(layer).is_ok(), "one snapshot at a time");
        self.top.store(top + 1, Release);
    }

    /// Those that are written, or may be until the writes to them have ended.
    pub fn unsealed(&self) -> RangeInclusive<Layer> {
        self.sealed.load(Acquire) + 1..=self.top()
    }

    /// Nobody writes to that one any more.
    pub fn sealed(&self, number: Layer) {
        self.sealed.store(number, Release);
    }
}
