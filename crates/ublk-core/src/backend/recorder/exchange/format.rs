//! The sectors of the format that are no data: numbers of 64 bits, the least significant byte first. Whatever the bytes are,
//! reading them gives an entry that makes sense, or says what is wrong with it.

use crate::abi::SECTOR;
use crate::request::{Flags, Op};
use std::ops::Range;

/// "jsfw" and "shr", as the kernel has it.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
const METADATA: u64 = 1 << 4;

/// What of a header is not padding, in bytes.
pub const HEADER: usize = 32;

/// The longest name of a mark, in bytes: it is behind the header in its sector, and other readers expect a zero behind it.
pub const LONGEST_MARK: usize = 512 - HEADER - 1;

/// The sizes of a sector that others write.
const SECTOR_SIZES: Range<u32> = 512..1 << 24;

/// What is wrong, as the rest of a sentence.
pub type Wrong = String;

/// The first sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// How many entries there are.
    pub entries: u64,
    /// The unit of all lengths, in bytes.
    pub sector_size: u32,
}

impl Superblock {
    /// Its bytes without the padding.
    pub fn to_bytes(self) -> [u8; HEADER] {
        of_words([MAGIC, VERSION, self.entries, self.sector_size.into()])
    }

    /// Reads it.
    pub fn read(bytes: &[u8; HEADER]) -> Result<Self, Wrong> {
        let [magic, version, entries, last] = words(bytes);
        if magic != MAGIC {
            return Err("is no log of dm-log-writes".into());
        }
        if version != VERSION {
            return Err(format!("has version {version} of the format; only version {VERSION} is known"));
        }
        // Behind it is padding, which the kernel does not promise to be zeroes.
        let sector_size = u32::try_from(last & u64::from(u32::MAX)).unwrap_or(0);
        if !SECTOR_SIZES.contains(&sector_size) || !sector_size.is_power_of_two() {
            return Err(format!("has sectors of {sector_size} bytes, which no disk has"));
        }
        Ok(Self { entries, sector_size })
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Something was written or discarded, in sectors of 512 bytes. `flushed`: after a flush that came with it.
    Change { sectors: Range<u64>, op: Op, flags: Flags, flushed: bool },
    /// A flush alone.
    Flush,
    /// A mark. Its name, of this length in bytes, is behind the header.
    Mark { length: usize },
}

impl Entry {
    /// Its header, for sectors of 512 bytes.
    pub fn to_bytes(&self) -> [u8; HEADER] {
        match self {
            Self::Change { sectors, op, flags, flushed } => {
                let bits = [
                    (*flushed, FLUSH),
                    (flags.has(Flags::FUA), FUA),
                    (*op == Op::Discard, DISCARD),
                    (flags.has(Flags::META), METADATA),
                ];
                let bits = bits.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum();
                of_words([sectors.start, sectors.end - sectors.start, bits, 0])
            }
            Self::Flush => of_words([0, 0, FLUSH, 0]),
            Self::Mark { length } => of_words([0, 0, MARK, *length as u64]),
        }
    }

    /// Reads a header. `sector_size`: of the log.
    pub fn read(bytes: &[u8; HEADER], sector_size: u32) -> Result<Self, Wrong> {
        let [sector, count, bits, length] = words(bytes);
        if bits & !(FLUSH | FUA | DISCARD | MARK | METADATA) != 0 {
            return Err(format!("has unknown flags ({bits:#x})"));
        }
        if bits & MARK != 0 {
            let room = u64::from(sector_size) - HEADER as u64;
            let fits = count == 0 && bits == MARK && length <= room;
            let length = usize::try_from(length).ok().filter(|_| fits);
            return length.map(|length| Self::Mark { length }).ok_or_else(|| "is no valid mark".into());
        }
        if count == 0 {
            return if bits & FLUSH != 0 { Ok(Self::Flush) } else { Err("is empty".into()) };
        }
        let each = u64::from(sector_size) / SECTOR;
        let end = sector.checked_add(count).and_then(|end| end.checked_mul(each));
        let Some(end) = end.filter(|end| *end <= u64::MAX / SECTOR) else {
            return Err("is beyond the end of any disk".into());
        };
        if count * each > u64::from(u32::MAX) {
            return Err("is longer than any request".into());
        }
        let flag = |bit, flag| if bits & bit != 0 { flag } else { Flags::NONE };
        Ok(Self::Change {
            sectors: sector * each..end,
            op: if bits & DISCARD != 0 { Op::Discard } else { Op::Write },
            flags: flag(FUA, Flags::FUA) | flag(METADATA, Flags::META),
            flushed: bits & FLUSH != 0,
        })
    }

    /// How many bytes of data are behind its sector.
    pub fn data_length(&self) -> u64 {
        match self {
            Self::Change { sectors, op: Op::Write, .. } => (sectors.end - sectors.start) * SECTOR,
            _ => 0,
        }
    }
}

fn of_words(words: [u64; 4]) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn words(bytes: &[u8; HEADER]) -> [u64; 4] {
    std::array::from_fn(|at| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at * 8 + byte])))
}
