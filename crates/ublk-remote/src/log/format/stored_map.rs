//! The map of a disk as an object.

use super::bytes::{Get, Put};
use super::record::Snapshot;
use super::{LogId, Malformed, sum};
use serde::{Deserialize, Serialize};

const MAP: &[u8; 16] = b"ublk-ts map 1\0\0\0";

/// A segment that a stored map names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its place in the log.
    pub id: LogId,
    /// Blocks of its header.
    pub header: u32,
    /// Blocks of its data.
    pub blocks: u32,
}

/// A part of the disk, and where its data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first block of the disk.
    pub block: u64,
    /// How many.
    pub blocks: u32,
    /// The segment: its number in the map's list.
    pub segment: u32,
    /// The first block of its data.
    pub place: u32,
}

/// An object of the log that the disk has nothing of any more, and that a snapshot or a reader of an earlier state may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The object.
    pub listed: Listed,
    /// The one that has replaced the last of it.
    pub death: LogId,
}

/// What is known of a volume beside where its blocks are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rest {
    /// Bytes of the disk; 0: as many as when it was made.
    pub size: u64,
    /// Its snapshots.
    pub snapshots: Vec<Snapshot>,
    /// What is kept.
    pub kept: Vec<Kept>,
}

/// The map of a disk as of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredMap {
    /// The segment.
    pub at: LogId,
    /// The segments that have data of the disk.
    pub segments: Vec<Listed>,
    /// Where each part of the disk is, in ascending order. What is in no run reads as zeroes.
    pub runs: Vec<Run>,
    /// All else.
    pub rest: Rest,
}

impl StoredMap {
    /// Its object.
    pub fn encode(&self) -> Vec<u8> {
        let length = 40 + self.segments.len() * 16 + self.runs.len() * 20;
        let mut bytes = vec![0; length];
        bytes[..16].copy_from_slice(MAP);
        let mut to = Put { bytes: &mut bytes, at: 20 };
        to.u32(self.at.epoch);
        to.u32(self.at.sequence);
        to.u32(u32::try_from(self.segments.len()).unwrap_or(u32::MAX));
        to.u64(self.runs.len() as u64);
        for Listed { id, header, blocks } in &self.segments {
            to.all([id.epoch, id.sequence, *header, *blocks]);
        }
        for run in &self.runs {
            to.u64(run.block);
            to.all([run.blocks, run.segment, run.place]);
        }
        bytes.extend(serde_json::to_vec(&self.rest).unwrap_or_default());
        let sum = sum(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Get { bytes: bytes.get(20..).unwrap_or_default() };
        if bytes.len() < 20 || !bytes.starts_with(MAP) {
            return Err(Malformed("is no map of ublk-ts"));
        }
        let mut summed = bytes.to_vec();
        summed[16..20].fill(0);
        if sum(&summed).to_le_bytes() != bytes[16..20] {
            return Err(Malformed("is a stored map that was changed"));
        }
        let at = LogId { epoch: from.u32()?, sequence: from.u32()? };
        let (segments, runs) = (from.u32()?, from.u64()?);
        let segments = (0..segments).map(|_| {
            let id = LogId { epoch: from.u32()?, sequence: from.u32()? };
            Ok(Listed { id, header: from.u32()?, blocks: from.u32()? })
        });
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        let mut end = 0;
        let runs = (0..runs).map(|_| {
            let block = from.u64()?;
            let run = Run { block, blocks: from.u32()?, segment: from.u32()?, place: from.u32()? };
            let within = segments.get(run.segment as usize).is_some_and(|segment| {
                run.place.checked_add(run.blocks).is_some_and(|last| last <= segment.blocks)
            });
            let last = block.checked_add(run.blocks.into());
            let (true, Some(last), true) = (within, last, block >= end && run.blocks > 0) else {
                return Err(Malformed("is a stored map with an impossible part"));
            };
            end = last;
            Ok(run)
        });
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        let rest = serde_json::from_slice(from.bytes)
            .map_err(|_| Malformed("is a stored map with an impossible end"))?;
        Ok(Self { at, segments, runs, rest })
    }
}
