//! What the local file is used for.

use super::cache::CHUNK;
use super::format::BLOCK;
use super::ring::SPAN;
use std::ops::Range;

/// What the local file is used for, in bytes.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Segments that were written.
    pub ring: Range<u64>,
    /// Chunks that were read.
    pub chunks: Range<u64>,
}

impl Layout {
    /// Bytes at the beginning of the file that are never written: they read as zeroes.
    pub const ZEROES: u64 = 16 << 20;

    /// For a file of this length in bytes; the first quarter of it, but at most 1 GiB, is for what is written.
    pub fn new(bytes: u64) -> Self {
        let ring = (bytes / 4).clamp(4 * SPAN, 1 << 30);
        let start = Self::ZEROES;
        let chunks = bytes.saturating_sub(ring) / Self::CHUNK * Self::CHUNK;
        Self { ring: start..start + ring, chunks: start + ring..start + ring + chunks }
    }

    /// Bytes of a chunk.
    pub const CHUNK: u64 = CHUNK as u64 * BLOCK;

    /// How many chunks it has room for.
    pub fn slots(&self) -> u32 {
        u32::try_from((self.chunks.end - self.chunks.start) / Self::CHUNK).unwrap_or(u32::MAX)
    }

    /// Where a slot is.
    pub fn slot(&self, slot: u32) -> u64 {
        self.chunks.start + u64::from(slot) * Self::CHUNK
    }
}
