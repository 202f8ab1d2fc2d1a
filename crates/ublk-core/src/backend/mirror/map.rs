//! The map of a mirrored disk: a file that says which sides have all of it, and in which parts they may differ. All numbers are
//! little-endian.
//!
//! | part | what it holds |
//! |---|---|
//! | two pages | a header each, of which only the first 512 bytes are used: a medium writes them as a whole. The valid one with the higher generation counts |
//! | table | a bit for each part of the disk: a change of it may be on some sides and not on others |
//!
//! **Order.**
//!
//! - Before a change of a part begins on any side, the part's bit is set, and synced. So whatever a kill or a power failure leaves, sides
//!   differ only where bits are set, and one side's content of these parts is as good as another's: none of these changes was
//!   durable, or all sides have it. What was flushed is on all sides.
//! - Before a change is answered that a side has not got, the header says durably that this side lacks some parts (`current`). From then
//!   on no bit is cleared. So a side that missed an answered change is never read, by no later server either.
//! - A bit is cleared when no change of the part is in flight, and after that all sides were flushed; and only while all sides are
//!   current. If the clearing is lost, the part is only copied in vain.
//! - A side becomes current after it got all parts, and was flushed.
//!
//! Each sector of the table is old or new after a power failure, and each order above holds for each bit by itself: so the table needs
//! neither a sum nor a second copy.

use crate::backend::bits::Bits;
use crate::backend::map_file::{checksum, sync_parent};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"ublk-ts mirror\0\0";
const VERSION: u64 = 1;
const PAGE: u64 = 4096;
const ATOM: usize = 512;
const TABLE: u64 = 2 * PAGE;
/// The most parts.
const PARTS: u64 = 1 << 19;
/// Bytes of the smallest part.
const LEAST: u64 = 1 << 20;

/// Where a map is. A file, or in tests a medium that loses power.
pub trait Medium: Send + Sync {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    fn set_length(&self, length: u64) -> io::Result<()>;
}

impl Medium for File {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(bytes, at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|found| found.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub size: u64,
    pub part: u64,
    pub sides: u64,
    /// What the sides are.
    pub names: u64,
    pub generation: u64,
    /// By bits: the sides that have all but where bits are set.
    pub current: u64,
    /// Those that may lack anything, where no bit is set, too.
    pub unknown: u64,
}

impl Header {
    fn bytes(&self) -> [u8; ATOM] {
        let mut bytes = [0; ATOM];
        bytes[..16].copy_from_slice(MAGIC);
        let Self { size, part, sides, names, generation, current, unknown } = *self;
        let numbers = [VERSION, size, part, sides, names, generation, current, unknown];
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        let sum = checksum(bytes[..ATOM - 8].iter().copied());
        bytes[ATOM - 8..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; ATOM]) -> Option<Self> {
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        let sum = checksum(bytes[..ATOM - 8].iter().copied());
        if bytes[..16] != *MAGIC || number(ATOM - 8) != sum || number(16) != VERSION {
            return None;
        }
        let [size, part, sides, names, generation, current, unknown] =
            [1, 2, 3, 4, 5, 6, 7].map(|at| number(16 + at * 8));
        Some(Self { size, part, sides, names, generation, current, unknown })
    }
}

/// Bytes of a part of a disk.
pub fn part_of(size: u64) -> u64 {
    size.div_ceil(PARTS).next_power_of_two().max(LEAST)
}

/// See the [module](self).
pub struct Map {
    medium: Box<dyn Medium>,
    header: Header,
    /// The table, as it is in the file.
    pub bits: Bits,
    /// It was just made.
    pub is_new: bool,
    name: String,
}

impl Map {
    /// Opens the file of a map, or makes it.
    pub fn file(path: &Path, read_only: bool) -> Result<(File, PathBuf)> {
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only).create(!read_only).truncate(false).mode(0o600);
        let failed = |error: io::Error| {
            Error::system(format!("cannot open the mirror's map {}", path.display()), &error)
                .kind(ErrorKind::Backend)
        };
        let file = options.open(path).map_err(failed)?;
        sync_parent(path).map_err(failed)?;
        Ok((file, path.to_owned()))
    }

    /// Reads the map of a disk of `size` bytes with these sides; a new one says that only the first is current.
    pub fn load(medium: Box<dyn Medium>, name: &str, size: u64, names: &[String]) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::system(format!("cannot read the mirror's map {name}"), &error).kind(ErrorKind::Backend)
        };
        let part = part_of(size);
        let bytes = to_usize(size.div_ceil(part).div_ceil(4096 * 8) * 4096);
        let bits = Bits::new(bytes).map_err(failed)?;
        let hash = checksum(names.iter().flat_map(|name| name.bytes().chain([0])));
        let (sides, all) = (names.len() as u64, (1 << names.len()) - 1);
        let header = Header { size, part, sides, names: hash, generation: 0, current: 1, unknown: all & !1 };
        let mut map = Self { medium, header, bits, is_new: false, name: name.to_owned() };
        let found = map.medium.length().map_err(failed)?;
        if found < TABLE {
            map.begin(bytes).map_err(failed)?;
            return Ok(map);
        }
        let mut counts: Option<Header> = None;
        for slot in 0..2 {
            let mut bytes = [0; ATOM];
            map.medium.read(&mut bytes, slot * PAGE).map_err(failed)?;
            let header = Header::read(&bytes);
            counts = counts.max_by_generation(header);
        }
        let Some(counts) = counts else {
            let mut bytes = vec![0; to_usize(TABLE)];
            map.medium.read(&mut bytes, 0).map_err(failed)?;
            if bytes.iter().all(|byte| *byte == 0) {
                map.begin(to_usize(found - TABLE).max(map.bits.words() * 8)).map_err(failed)?;
                return Ok(map);
            }
            return Err(Error::new(ErrorKind::Backend, format!("{name} is no map of a mirror, or damaged"))
                .hint("if the first side has all: remove it, and the others are filled again"));
        };
        if (counts.size, counts.part, counts.sides) != (size, part, sides) || counts.names != hash {
            let what = format!("the map {name} is of a mirror of other disks, or in another order");
            return Err(Error::new(ErrorKind::Backend, what)
                .hint("if the first side has all: remove it, and the others are filled again"));
        }
        map.header = counts;
        let mut table = vec![0; bytes];
        map.medium.read(&mut table, TABLE).map_err(failed)?;
        map.bits.fill(0, &table);
        map.bits.truncate(size.div_ceil(part));
        Ok(map)
    }

    /// A new map: the table, and then the header that makes it one.
    fn begin(&mut self, bytes: usize) -> io::Result<()> {
        self.medium.set_length(TABLE + bytes as u64)?;
        self.medium.write(&vec![0; bytes], TABLE)?;
        self.medium.sync()?;
        self.is_new = true;
        self.write_header(self.header)
    }

    fn write_header(&mut self, header: Header) -> io::Result<()> {
        let header = Header { generation: self.header.generation + 1, ..header };
        self.medium.write(&header.bytes(), header.generation % 2 * PAGE)?;
        self.medium.sync()?;
        self.header = header;
        Ok(())
    }

    pub fn header(&self) -> Header {
        self.header
    }

    /// Says durably which sides are current, and which may lack anything.
    pub fn set_sides(&mut self, current: u64, unknown: u64) -> Result<()> {
        if (self.header.current, self.header.unknown) == (current, unknown) {
            return Ok(());
        }
        let failed = self.failed();
        self.write_header(Header { current, unknown, ..self.header }).map_err(failed)
    }

    /// Sets the bits of some parts durably.
    pub fn set(&mut self, parts: &[Range<u64>]) -> Result<()> {
        let mut pages: Vec<usize> = Vec::new();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            self.bits.set_all(part.clone());
            pages.extend(page_of(part.start)..=page_of(part.end - 1));
        }
        pages.sort_unstable();
        pages.dedup();
        self.write(&pages)
    }

    /// Clears all bits but these, durably.
    pub fn keep(&mut self, bits: &Bits) -> Result<()> {
        self.bits.keep(bits);
        let pages: Vec<_> = (0..self.bits.words() / 64).collect();
        self.write(&pages)
    }

    fn write(&self, sectors: &[usize]) -> Result<()> {
        for sector in sectors {
            let words = sector * 64..sector * 64 + 64;
            let bytes = self.bits.bytes(words);
            self.medium.write(&bytes, TABLE + *sector as u64 * 512).map_err(self.failed())?;
        }
        if sectors.is_empty() { Ok(()) } else { self.medium.sync().map_err(self.failed()) }
    }

    fn failed(&self) -> impl Fn(io::Error) -> Error + use<> {
        let name = self.name.clone();
        move |error| {
            Error::system(format!("cannot write the mirror's map {name}"), &error).kind(ErrorKind::Backend)
        }
    }
}

/// The sector of the table that has a part's bit.
fn page_of(part: u64) -> usize {
    to_usize(part / (512 * 8))
}

trait Newer {
    fn max_by_generation(self, other: Self) -> Self;
}

impl Newer for Option<Header> {
    fn max_by_generation(self, other: Self) -> Self {
        match (self, other) {
            (Some(one), Some(other)) => Some(if other.generation > one.generation { other } else { one }),
            (one, other) => one.or(other),
        }
    }
}
