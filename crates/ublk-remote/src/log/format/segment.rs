//! Objects of the log: segments, with the parts of the disk that they have, and fences.

use super::bytes::{Get, Put};
use super::{FENCE, Fence, LogId, MOST_BLOCKS, MOST_EXTENTS, Malformed, Record, sum};

const SEGMENT: &[u8; 16] = b"ublk-ts segment1";
pub(super) const HEAD: usize = 80;
pub(super) const EXTENT: usize = 32;

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
    /// A change of the volume.
    Record(Record),
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
        if let Some(record) = Record::decode(bytes) {
            return record.map(|record| Ok(Self::Record(record)));
        }
        Ok(Segment::decode(bytes)?.map(Self::Segment))
    }
}

/// Blocks of the header of a segment with this number of extents.
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
