//! Diffs of disks in files: as a stream of extents, which [`apply`] puts into a copy of the base, as a sparse raw file with a
//! list, or as a qcow2 image over a backing file.
//!
//! # The stream
//!
//! All numbers are little-endian. A header of 32 bytes:
//!
//! | bytes | |
//! |---|---|
//! | 0–7 | `ublkdiff` |
//! | 8–11 | the version, 1 |
//! | 12–15 | the CRC-32C of the header with zeroes here |
//! | 16–23 | the size of the disk in bytes |
//! | 24–31 | 0 |
//!
//! Then extents in any order, none of which overlap, each with a head of 24 bytes:
//!
//! | bytes | |
//! |---|---|
//! | 0–3 | 1: data follows the head; 2: the disk has zeroes there; 3: the end |
//! | 4–7 | the CRC-32C of the head with zeroes here, and of the data |
//! | 8–15 | the offset on the disk in bytes; of the end: how many extents there were |
//! | 16–23 | the length in bytes, for data at most 1 MiB; of the end: how many bytes they covered |
//!
//! Nothing follows the end. A stream without an end is incomplete.

mod apply;
mod crc;
mod image;
mod output;
mod own_disk;
mod raw;
mod stream;
#[cfg(test)]
mod tests;

pub use apply::{Applied, apply, apply_ranges};
pub use image::{BackingFile, Qcow2Diff};
pub use output::{Aside, Output};
pub use own_disk::is_on;
pub use raw::RawDiff;
pub use stream::StreamDiff;

use crc::crc32c;
use std::ops::Range;

const MAGIC: &[u8; 8] = b"ublkdiff";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const HEAD: usize = 24;
const SUM: Range<usize> = 4..8;
const HEADER_SUM: Range<usize> = 12..16;
const DATA: u32 = 1;
const ZEROES: u32 = 2;
const END: u32 = 3;
/// The most data in an extent.
const MOST: usize = 1 << 20;

fn header(size: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&size.to_le_bytes());
    let sum = crc32c(0, &bytes);
    bytes[HEADER_SUM].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn head(kind: u32, offset: u64, length: u64, data: &[u8]) -> [u8; HEAD] {
    let mut bytes = [0; HEAD];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    let sum = crc32c(crc32c(0, &bytes), data);
    bytes[SUM].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The longest runs of whole units of data that are all zeroes, or that are not, in order.
fn zero_runs(data: &[u8], unit: usize) -> impl Iterator<Item = (bool, Range<usize>)> {
    const ZEROES: [u8; 4096] = [0; 4096];
    let is_zero = move |at: usize| {
        let unit = &data[at..data.len().min(at + unit)];
        unit.chunks(ZEROES.len()).all(|part| part == &ZEROES[..part.len()])
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let zero = (start < data.len()).then(|| is_zero(start))?;
        at += unit;
        while at < data.len() && is_zero(at) == zero {
            at += unit;
        }
        at = at.min(data.len());
        Some((zero, start..at))
    })
}
