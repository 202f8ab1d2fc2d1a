//! Checkpoints of a disk, and which of its blocks were changed since.

use crate::error::Result;
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
