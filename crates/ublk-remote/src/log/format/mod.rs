//! The bytes of a volume's objects. Pure: it makes sense of any bytes, or says what is wrong with them.
//!
//! ```text
//! PREFIX/volume.json             what the volume is; created once
//! PREFIX/log/EPOCH/SEQUENCE      a segment: what was written, and where on the disk it belongs. Or a fence, at which the epoch
//!                                ends: its creator writes the next one. Or a record: a snapshot was made or removed, or the disk
//!                                has another size
//! PREFIX/map/EPOCH-SEQUENCE      the map of the disk after that segment
//! PREFIX/size/EPOCH-SEQUENCE-SIZE  the size that the record there gave the disk; the newest counts
//! PREFIX/clone/NAME/VOLUME.json  a clone of a snapshot: it stays as long as this does
//! ```
//!
//! Numbers are in hexadecimal with eight digits, so that the order of keys is the order of the log. Within objects, numbers are
//! little-endian.

mod bytes;
mod record;
mod segment;
mod stored_map;
#[cfg(test)]
mod tests;

pub use record::{Change, Record, Snapshot};
pub use segment::{Extent, Kind, Object, Segment, header_blocks};
pub use stored_map::{Kept, Listed, Rest, Run, StoredMap};

use segment::{EXTENT, HEAD};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes: what the map counts in.
pub const BLOCK: u64 = 4096;
/// The same, for lengths in memory.
pub const BLOCK_LENGTH: usize = 4096;
/// The most blocks of data in a segment.
pub const MOST_BLOCKS: u32 = 2048;
/// The most extents of a segment.
pub const MOST_EXTENTS: usize = 4096;
/// Bytes: the longest header of a segment.
pub const MOST_HEADER: u64 = (HEAD + MOST_EXTENTS * EXTENT).next_multiple_of(4096) as u64;
/// Bytes: fences are smaller, and segments are not.
pub const LEAST_SEGMENT: u64 = BLOCK;

const FENCE: &[u8; 16] = b"ublk-ts fence 1\n";

/// The key of what a volume is.
pub const VOLUME: &str = "volume.json";
/// Where a volume's log is.
pub const LOG: &str = "log/";
/// Where its maps are.
pub const MAPS: &str = "map/";
/// Where the sizes are that it got after it was made.
pub const SIZES: &str = "size/";
/// Where the clones of its snapshots are named.
pub const CLONES: &str = "clone/";

/// The check sum of some bytes: CRC-32C.
pub fn sum(bytes: &[u8]) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "it has 32 bits")]
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    sum
}

/// Why an object makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.0)
    }
}

/// The place of an object in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogId {
    /// Each writer has one of its own.
    pub epoch: u32,
    /// Within the epoch, from 0.
    pub sequence: u32,
}

impl LogId {
    /// The key of its object.
    pub fn key(self) -> String {
        format!("{LOG}{:08x}/{:08x}", self.epoch, self.sequence)
    }

    /// The key of the map that has it and all before it.
    pub fn map_key(self) -> String {
        format!("{MAPS}{:08x}-{:08x}", self.epoch, self.sequence)
    }

    /// The key that says which size the record there gave the disk.
    pub fn size_key(self, size: u64) -> String {
        format!("{SIZES}{:08x}-{:08x}-{size:016x}", self.epoch, self.sequence)
    }

    /// From such a key.
    pub fn of_size_key(key: &str) -> Option<(Self, u64)> {
        let (id, size) = key.strip_prefix(SIZES)?.rsplit_once('-')?;
        Some((Self::of(id, '-')?, u64::from_str_radix(size, 16).ok()?))
    }

    /// The next one of the same epoch.
    #[must_use]
    pub fn next(self) -> Self {
        Self { sequence: self.sequence + 1, ..self }
    }

    /// From the key of an object of the log.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::of(key.strip_prefix(LOG)?, '/')
    }

    /// From the key of a map.
    pub fn of_map_key(key: &str) -> Option<Self> {
        Self::of(key.strip_prefix(MAPS)?, '-')
    }

    fn of(text: &str, between: char) -> Option<Self> {
        let (epoch, sequence) = text.split_once(between)?;
        let number = |text: &str| (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok())?;
        Some(Self { epoch: number(epoch)?, sequence: number(sequence)? })
    }
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Of these objects.
    pub format: u32,
    /// Identifies the volume, in hexadecimal.
    pub id: String,
    /// Bytes, when it was made.
    pub size: u64,
    /// Whose clone it is, and whose that is, and so on: the farthest first. Ids of segments up to the epoch of one are that one's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
}

/// The snapshot of another volume, with which a clone begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// The other volume's URL.
    pub url: String,
    /// Its id.
    pub id: String,
    /// The name of the snapshot.
    pub snapshot: String,
    /// The record that made it.
    pub at: LogId,
    /// The stored map with which its log begins.
    pub map: Option<LogId>,
}

/// Names a clone of a snapshot, beside the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The clone's URL.
    pub url: String,
    /// Its id.
    pub volume: String,
}

impl Mark {
    /// Where the clones of a snapshot are named.
    pub fn prefix(snapshot: &str) -> String {
        format!("{CLONES}{snapshot}/")
    }

    /// The key of its object.
    pub fn key(&self, snapshot: &str) -> String {
        format!("{}{}.json", Self::prefix(snapshot), self.volume)
    }
}

impl Volume {
    /// Where its log begins. A clone's epochs come after those of its parent, so that no two segments of the two have the same id.
    pub fn begin(&self) -> LogId {
        self.parents
            .last()
            .map_or(LogId::default(), |parent| LogId { epoch: parent.at.epoch + 1, sequence: 0 })
    }

    /// The format that is written here.
    pub const FORMAT: u32 = 1;

    /// Its object.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let volume: Self = serde_json::from_slice(bytes).map_err(|_| Malformed("is no volume of ublk-ts"))?;
        if volume.format != Self::FORMAT {
            return Err(Malformed("is a volume of another version of ublk-ts"));
        }
        if volume.size == 0 || !volume.size.is_multiple_of(BLOCK) || volume.id.is_empty() {
            return Err(Malformed("has an impossible size or no id"));
        }
        Ok(volume)
    }
}

/// Ends an epoch. Its creator writes the next one. Never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// The next epoch.
    pub epoch: u32,
    /// Who writes it: a random id of one opening of the volume.
    pub writer: String,
    /// For people: the machine.
    pub host: String,
    /// For people: the process.
    pub pid: u32,
    /// For people: when, in seconds since 1970.
    pub time: u64,
}

impl Fence {
    /// Its object.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = FENCE.to_vec();
        bytes.extend(serde_json::to_vec(self).unwrap_or_default());
        bytes
    }
}
