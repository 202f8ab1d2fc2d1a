//! Checkpoints of a disk, and which of its blocks were changed since.

use crate::error::Result;
use std::fs::File;
use std::io;
use std::ops::Range;

/// A record of changed blocks: what a backend answers that keeps one.
///
/// A checkpoint is one instant for all queues: a write that was answered before is on its older side, one that begins
/// later on its newer side, and one that is in flight counts as changed since.
pub trait Changes: Send + Sync {
    /// Makes a checkpoint now.
    fn checkpoint(&self, name: &str) -> Result<()>;

    /// All checkpoints, the oldest first.
    fn checkpoints(&self) -> Result<Vec<Checkpoint>>;

    /// Removes a checkpoint. What was changed since older ones stays known.
    fn remove_checkpoint(&self, name: &str) -> Result<()>;

    /// What was changed since a checkpoint, from the byte `from` on: at most `most` ranges, in order.
    fn changed(&self, since: &str, from: u64, most: usize) -> Result<Changed>;

    /// Passes what was changed since a checkpoint, or without one all of the disk, to `sink`: as it is at one instant, while
    /// the disk goes on. Blocks until all is done, or it is cancelled.
    fn diff(
        &self,
        since: Option<&str>,
        sink: &mut (dyn Sink + Send),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()>;
}

/// Where a diff goes. It may block: no request of the disk waits for it.
pub trait Sink {
    /// What comes is of a disk of that size, in bytes. Called first.
    fn begin(&mut self, size: u64) -> io::Result<()>;

    /// What changed comes in whole units of this many bytes: a power of two from 4096 to 256 KiB. After [`begin`](Self::begin).
    fn unit(&self) -> u64 {
        4096
    }

    /// The disk has this data there. Called for each changed block once, in any order.
    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// A file for data that this is too slow for, which nobody else sees.
    fn aside(&self) -> io::Result<File>;

    /// What lets a [`put`](Self::put) fail that blocks. It is called on another thread, when the diff has failed.
    fn interrupter(&self) -> Box<dyn Fn() + Send + Sync> {
        Box::new(|| {})
    }
}

/// A named instant in the life of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub made: u64,
    /// Whether it is known what was changed since. Otherwise everything counts as changed.
    pub known: bool,
}

/// What was changed since a checkpoint, or a part of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Of the disk, in bytes.
    pub size: u64,
    /// As [`Checkpoint::known`].
    pub known: bool,
    /// In bytes: whole blocks, except at the disk's end. No two of them touch.
    pub ranges: Vec<Range<u64>>,
    /// From where on there may be more.
    pub next: Option<u64>,
}
