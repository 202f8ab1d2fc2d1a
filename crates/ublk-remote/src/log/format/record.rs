//! Objects of the log that have no data: they change what is known of the volume.
//!
//! They are part of the log, so that they count exactly where they stand in it, and only if the log's writer has stored them and all
//! before them. That is all the protection that snapshots need: a writer that was fenced makes none.

use super::{LogId, Malformed, sum};
use serde::{Deserialize, Serialize};

const RECORD: &[u8; 16] = b"ublk-ts record 1";
/// Bytes: as long as the shortest segment, so that lists tell it from a fence.
const LENGTH: usize = 4096;
const HEAD: usize = 24;

/// A name for the disk as of a place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// The record that made it: it has all that stands before.
    pub at: LogId,
    /// The stored map with which its log begins; none: the log begins with the volume.
    pub map: Option<LogId>,
    /// When it was made, in milliseconds since 1970.
    pub made: u64,
    /// Bytes: the size of the disk.
    pub size: u64,
    /// It is about to be removed, unless it has clones.
    #[serde(default)]
    pub removing: bool,
}

/// What a record changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub enum Change {
    /// There is a snapshot of all before.
    #[serde(rename_all = "camelCase")]
    Made { name: String, map: Option<LogId>, made: u64, size: u64 },
    /// Nobody may make a clone of a snapshot any more.
    Removing { name: String },
    /// It has clones, and stays.
    Stays { name: String },
    /// It is gone.
    Removed { name: String },
    /// Nothing: it is a place to name a map by.
    Nothing,
    /// The disk has another size, in bytes.
    Size { size: u64 },
}

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place in the log.
    pub id: LogId,
    /// Who wrote it.
    pub writer: String,
    /// What it changes.
    pub change: Change,
}

impl Record {
    /// Blocks that it takes up.
    pub const BLOCKS: u32 = 1;

    /// Its object.
    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let mut bytes = vec![0; LENGTH.max(HEAD + text.len())];
        bytes[..16].copy_from_slice(RECORD);
        bytes[20..24].copy_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes[HEAD..HEAD + text.len()].copy_from_slice(&text);
        let sum = sum(&bytes[20..]);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads one; `None`: it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Result<Self, Malformed>> {
        if !bytes.starts_with(RECORD) {
            return None;
        }
        let wrong = || Malformed("is a record that was changed");
        let read = || {
            let kept: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
            if sum(bytes.get(20..)?) != u32::from_le_bytes(kept) {
                return None;
            }
            let length = usize::try_from(u32::from_le_bytes(bytes.get(20..24)?.try_into().ok()?)).ok()?;
            serde_json::from_slice(bytes.get(HEAD..HEAD.checked_add(length)?)?).ok()
        };
        Some(read().ok_or_else(wrong))
    }
}
