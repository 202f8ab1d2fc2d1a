//! Checkpoints of a disk and its changed blocks, for JavaScript.

use crate::number::number;
use napi_derive::napi;
use ublk_core::backend::{Changed, Checkpoint};

/// A named instant in the life of a disk.
#[napi(object)]
pub struct DiskCheckpoint {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub made: f64,
    /// Whether it is known what was changed since.
    pub known: bool,
}

impl From<Checkpoint> for DiskCheckpoint {
    fn from(Checkpoint { name, made, known }: Checkpoint) -> Self {
        Self { name, made: number(made), known }
    }
}

/// Some of what was changed since a checkpoint.
#[napi(object)]
pub struct ChangedPart {
    /// Of the disk, in bytes.
    pub size: f64,
    /// Whether it is known what was changed.
    pub known: bool,
    /// Offset and length of each range, in bytes.
    pub ranges: Vec<f64>,
    /// From where on there may be more; `null` if nowhere.
    pub next: Option<f64>,
}

impl From<Changed> for ChangedPart {
    fn from(Changed { size, known, ranges, next }: Changed) -> Self {
        let ranges = ranges.iter().flat_map(|range| [number(range.start), number(range.end - range.start)]);
        Self { size: number(size), known, ranges: ranges.collect(), next: next.map(number) }
    }
}
