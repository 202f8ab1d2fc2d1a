//! The bytes of a volume's objects. Pure: it makes sense of any bytes, or says what is wrong with them.
//!
//! ```text
//! PREFIX/volume.json             what the volume is; created once
//! PREFIX/log/EPOCH/SEQUENCE      a segment: what was written, and where on the disk it belongs. Or a fence, at which the epoch
//!                                ends: whoever created it writes the next one
//! PREFIX/map/EPOCH-SEQUENCE      the map of the disk after that segment
//! PREFIX/snapshot/NAME.json      a name for the disk as of a segment
//! ```
//!
//! Numbers are in hexadecimal with eight digits, so that the order of keys is the order of the log. Within objects, numbers are
//! little-endian.

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

const SEGMENT: &[u8; 16] = b"ublk-ts segment1";
const FENCE: &[u8; 16] = b"ublk-ts fence 1\n";
const MAP: &[u8; 16] = b"ublk-ts map 1\0\0\0";
const HEAD: usize = 80;
const EXTENT: usize = 32;

/// The key of what a volume is.
pub const VOLUME: &str = "volume.json";
/// Where a volume's log is.
pub const LOG: &str = "log/";
/// Where its maps are.
pub const MAPS: &str = "map/";

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
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
    /// Bytes.
    pub size: u64,
}

impl Volume {
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

/// Ends an epoch: who has created it writes the next one. Never deleted.
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

/// What a part of a segment does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its data is in the segment.
    Data,
    /// It reads as zeroes.
    Zero,
    /// Its data was moved here from another segment, and counts where the map still names that place.
    Moved {
        /// The other segment.
        from: LogId,
        /// The block of its data.
        place: u32,
    },
}

/// A part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first block of the disk.
    pub block: u64,
    /// How many.
    pub blocks: u32,
    /// Where its data begins, in blocks from the beginning of the segment's data; 0 without data.
    pub place: u32,
    /// What it does.
    pub kind: Kind,
}

impl Extent {
    /// Its bytes.
    pub fn encode(&self) -> [u8; EXTENT] {
        let (kind, from, place) = match self.kind {
            Kind::Data => (0_u32, LogId::default(), 0),
            Kind::Zero => (1, LogId::default(), 0),
            Kind::Moved { from, place } => (2, from, place),
        };
        let mut bytes = [0; EXTENT];
        let mut to = Put { bytes: &mut bytes, at: 0 };
        to.u64(self.block);
        to.all([self.blocks, self.place, kind, from.epoch, from.sequence, place]);
        bytes
    }

    /// Reads one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Get { bytes };
        let (block, blocks, place) = (from.u64()?, from.u32()?, from.u32()?);
        let kind = match from.u32()? {
            0 => Kind::Data,
            1 => Kind::Zero,
            2 => {
                let id = LogId { epoch: from.u32()?, sequence: from.u32()? };
                Kind::Moved { from: id, place: from.u32()? }
            }
            _ => return Err(Malformed("has a part of an unknown kind")),
        };
        if blocks == 0 || block.checked_add(blocks.into()).is_none() {
            return Err(Malformed("has an impossible part"));
        }
        Ok(Self { block, blocks, place, kind })
    }
}

/// What is in a segment, beside its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its place in the log.
    pub id: LogId,
    /// Who wrote it.
    pub writer: String,
    /// Blocks: how long the header is, behind which the data begins.
    pub header: u32,
    /// Blocks of data.
    pub blocks: u32,
    /// In the order in which they count.
    pub extents: Vec<Extent>,
    /// The check sum of its data.
    pub data_sum: u32,
}

/// An object of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// Data.
    Segment(Segment),
    /// The end of its epoch.
    Fence(Fence),
}

impl Object {
    /// Reads an object, of which `bytes` are the beginning. `Ok(Err(length))`: that many bytes of it are needed.
    pub fn decode(bytes: &[u8]) -> Result<Result<Self, u64>, Malformed> {
        if let Some(text) = bytes.strip_prefix(FENCE) {
            let fence =
                serde_json::from_slice(text).map_err(|_| Malformed("is a fence that makes no sense"))?;
            return Ok(Ok(Self::Fence(fence)));
        }
        Ok(Segment::decode(bytes)?.map(Self::Segment))
    }
}

impl Fence {
    /// Its object.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = FENCE.to_vec();
        bytes.extend(serde_json::to_vec(self).unwrap_or_default());
        bytes
    }
}

/// Blocks of the header of a segment with so many extents.
pub fn header_blocks(extents: usize) -> u32 {
    u32::try_from((HEAD + extents * EXTENT).div_ceil(4096)).unwrap_or(u32::MAX)
}

impl Segment {
    /// Its header.
    pub fn encode(&self) -> Vec<u8> {
        let length = header_blocks(self.extents.len()) as usize * 4096;
        let mut bytes = vec![0; length];
        bytes[..16].copy_from_slice(SEGMENT);
        let writer = self.writer.as_bytes();
        let kept = writer.len().min(32);
        bytes[24..24 + kept].copy_from_slice(&writer[..kept]);
        let mut to = Put { bytes: &mut bytes, at: 56 };
        let count = u32::try_from(self.extents.len()).unwrap_or(u32::MAX);
        to.all([self.id.epoch, self.id.sequence, self.header, self.blocks, count, self.data_sum]);
        for (at, extent) in self.extents.iter().enumerate() {
            bytes[HEAD + at * EXTENT..][..EXTENT].copy_from_slice(&extent.encode());
        }
        let sum = sum(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Result<Self, u64>, Malformed> {
        if bytes.len() < HEAD || !bytes.starts_with(SEGMENT) {
            return Err(Malformed("is no segment of ublk-ts"));
        }
        let mut from = Get { bytes: &bytes[56..] };
        let id = LogId { epoch: from.u32()?, sequence: from.u32()? };
        let (header, blocks, count, data_sum) = (from.u32()?, from.u32()?, from.u32()? as usize, from.u32()?);
        if count > MOST_EXTENTS || blocks > MOST_BLOCKS || header != header_blocks(count) {
            return Err(Malformed("is a segment with impossible lengths"));
        }
        let length = header as usize * 4096;
        let Some(whole) = bytes.get(..length) else { return Ok(Err(length as u64)) };
        let mut summed = whole.to_vec();
        summed[16..20].fill(0);
        if sum(&summed).to_le_bytes() != whole[16..20] {
            return Err(Malformed("is a segment that was changed"));
        }
        let extents = whole[HEAD..].chunks_exact(EXTENT).take(count).map(Extent::decode);
        let extents = extents.collect::<Result<Vec<_>, _>>()?;
        let fits = |extent: &Extent| {
            extent.kind == Kind::Zero
                || extent.place.checked_add(extent.blocks).is_some_and(|end| end <= blocks)
        };
        if !extents.iter().all(fits) {
            return Err(Malformed("is a segment whose parts are not in it"));
        }
        let writer = whole[24..56].split(|byte| *byte == 0).next().unwrap_or_default();
        let writer = String::from_utf8_lossy(writer).into_owned();
        Ok(Ok(Self { id, writer, header, blocks, extents, data_sum }))
    }
}

/// A segment that a stored map names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// The map of a disk as of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredMap {
    /// The segment.
    pub at: LogId,
    /// The segments that have data of the disk.
    pub segments: Vec<Listed>,
    /// Where each part of the disk is, in ascending order. What is in no run reads as zeroes.
    pub runs: Vec<Run>,
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
        Ok(Self { at, segments, runs })
    }
}

struct Put<'b> {
    bytes: &'b mut [u8],
    at: usize,
}

impl Put<'_> {
    fn u32(&mut self, number: u32) {
        self.bytes[self.at..self.at + 4].copy_from_slice(&number.to_le_bytes());
        self.at += 4;
    }

    fn all<const N: usize>(&mut self, numbers: [u32; N]) {
        numbers.into_iter().for_each(|number| self.u32(number));
    }

    fn u64(&mut self, number: u64) {
        self.bytes[self.at..self.at + 8].copy_from_slice(&number.to_le_bytes());
        self.at += 8;
    }
}

struct Get<'b> {
    bytes: &'b [u8],
}

impl Get<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.bytes.split_first_chunk().ok_or(Malformed("is cut short"))?;
        self.bytes = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Segment {
        let from = LogId { epoch: 1, sequence: 9 };
        let extents = vec![
            Extent { block: 7, blocks: 2, place: 0, kind: Kind::Data },
            Extent { block: 1 << 40, blocks: 1, place: 2, kind: Kind::Moved { from, place: 77 } },
            Extent { block: 8, blocks: 1 << 30, place: 0, kind: Kind::Zero },
        ];
        let id = LogId { epoch: 2, sequence: 5 };
        Segment { id, writer: "ab".repeat(16), header: 1, blocks: 3, extents, data_sum: 9 }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut many = segment();
        many.extents = vec![many.extents[0]; 1000];
        many.header = header_blocks(1000);
        for segment in [segment(), many] {
            let bytes = segment.encode();
            assert_eq!(bytes.len(), segment.header as usize * 4096);
            assert_eq!(Object::decode(&bytes), Ok(Ok(Object::Segment(segment.clone()))));
        }
        let fence = Fence { epoch: 3, writer: "w".into(), host: "h".into(), pid: 4, time: 5 };
        assert_eq!(Object::decode(&fence.encode()), Ok(Ok(Object::Fence(fence.clone()))));
        assert!((fence.encode().len() as u64) < LEAST_SEGMENT);
        let volume = Volume { format: 1, id: "x".into(), size: 8192 };
        assert_eq!(Volume::decode(&volume.encode()), Ok(volume));
        let map = StoredMap {
            at: LogId { epoch: 2, sequence: 5 },
            segments: vec![Listed { id: LogId { epoch: 1, sequence: 1 }, header: 1, blocks: 10 }],
            runs: vec![
                Run { block: 5, blocks: 2, segment: 0, place: 8 },
                Run { block: 7, blocks: 1, segment: 0, place: 0 },
            ],
        };
        assert_eq!(StoredMap::decode(&map.encode()), Ok(map));
    }

    #[test]
    fn keys_are_ordered_as_the_log_is() {
        let ids = [(0, 0), (0, 9), (0, 10), (1, 0), (1, 1 << 20), (16, 0)];
        let ids = ids.map(|(epoch, sequence)| LogId { epoch, sequence });
        assert!(ids.is_sorted_by_key(|id| id.key()) && ids.is_sorted_by_key(|id| id.map_key()));
        for id in ids {
            assert_eq!((LogId::of_key(&id.key()), LogId::of_map_key(&id.map_key())), (Some(id), Some(id)));
        }
        assert!(
            ["log/1/2", "log/0000000g/00000000", "map/", ""].iter().all(|key| LogId::of_key(key).is_none())
        );
    }

    #[test]
    fn any_change_is_found_and_no_bytes_are_trusted() {
        let bytes = segment().encode();
        assert_eq!(Object::decode(&bytes[..100]), Ok(Err(4096)));
        for at in 0..HEAD + 3 * EXTENT {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!matches!(Object::decode(&changed), Ok(Ok(_))), "byte {at}");
        }
        let mut seed = 1_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        let map = StoredMap { segments: vec![], runs: vec![], ..StoredMap::default() }.encode();
        for _ in 0..20_000 {
            let mut some = if random() % 2 == 0 { bytes.clone() } else { map.clone() };
            for _ in 0..random() % 8 {
                let at = random() % some.len().min(256);
                some[at] = random() as u8;
            }
            some.truncate(random() % (some.len() + 1));
            let _ = (Object::decode(&some), StoredMap::decode(&some), Volume::decode(&some));
        }
    }
}
