//! The bytes of an upper's file. All numbers are little-endian.
//!
//! | part | what it holds |
//! |---|---|
//! | a page | the header |
//! | table W | a bit for each block of 4 KiB: all of it is present |
//! | table M | a byte for each block of 4 KiB: which of its 8 sectors are present. W counts besides |
//! | log | two halves of entries of 8 bytes |
//! | data | at the same offsets as on the disk |
//!
//! Whatever changes in the header while the file exists is in its first 512 bytes, which a medium writes as a whole.

use super::{Parent, Shape, Uuid};
use crate::backend::identity::MOST as MOST_IDENTITY;
use crate::backend::map_file::{Stamp, checksum};
use crate::claim::upper::{DISK, MAGIC, SERVER, STATE, UUID};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use std::ops::Range;
use std::path::Path;

pub const PAGE: u64 = 4096;
/// The bytes of a page.
pub type Page = [u8; to_usize(PAGE)];
/// What the tables count in.
pub const BLOCK: u64 = 4096;
/// The smallest part of a disk that is written.
pub const SECTOR: u64 = 512;
/// Sectors of a block.
pub const PER_BLOCK: u64 = BLOCK / SECTOR;
const VERSION: u64 = 1;
/// Set in the number of a base that is a block device.
pub const OF_DEVICE: u64 = 1 << 63;
/// A part of the header that is never written in part.
pub const ATOM: usize = 512;
/// The longest name of a file, in bytes.
pub const MOST_NAME: usize = 255;
/// The most sectors that an entry of the log can begin at: 512 TiB.
const MOST_SIZE: u64 = SECTOR << 40;
/// The least that the tables can describe.
const LEAST_CAPACITY: u64 = 1 << 40;
/// Entries in half of the log.
pub const HALF: u64 = 2 << 20;
const MIB: u64 = 1 << 20;

const SIZE: Range<usize> = 24..32;
const BLOCK_SIZE: Range<usize> = 32..40;
const CAPACITY: Range<usize> = 40..48;
/// Where the header has the id of the boot in which the log counts.
pub const BOOT: Range<usize> = 64..100;
const PLACE: Range<usize> = 104..112;
const BASE_LENGTH: Range<usize> = 120..128;
const NAME_LENGTH: Range<usize> = 128..136;
const PARENT: Range<usize> = 136..152;
const INTO: Range<usize> = 152..160;
const ALONE: Range<usize> = 176..184;
const PUT: Range<usize> = 184..192;
const SLOT: Range<usize> = 192..200;
const PARTLY: Range<usize> = 216..224;
/// Where the base's identity is: in one place or in the other.
pub const BASES: [usize; 2] = [1024, 3072];
const NAME: usize = 2048;

/// Where the parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a disk that the tables can describe.
    pub capacity: u64,
}

impl Layout {
    /// For a new upper.
    pub fn new(size: u64) -> Self {
        let per_page = PAGE * 8 * BLOCK;
        let capacity = size.saturating_mul(4).max(LEAST_CAPACITY).next_multiple_of(per_page);
        Self { capacity: capacity.min(MOST_SIZE) }
    }

    /// Table W.
    pub fn whole(self) -> Range<u64> {
        PAGE..PAGE + self.capacity / BLOCK / 8
    }

    /// Table M.
    pub fn partial(self) -> Range<u64> {
        let from = self.whole().end;
        from..from + self.capacity / BLOCK
    }

    /// The entries of a half of the log.
    pub fn log(self, half: usize) -> Range<u64> {
        let from = self.partial().end + half as u64 * HALF * 8;
        from..from + HALF * 8
    }

    /// Where the disk's first byte is.
    pub fn data(self) -> u64 {
        self.log(1).end.next_multiple_of(MIB)
    }

    /// The length of the file of a disk of that size.
    pub fn length(self, size: u64) -> u64 {
        self.data() + size
    }
}

/// What is done with an upper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is written.
    Written,
    /// It is never written again.
    Sealed,
    /// All that it holds is being thrown away: whoever opens it ends that.
    Resetting,
    /// All that it holds is being put into its base.
    Committing,
    /// A sync has failed in the boot of the stamp: what the log names may be lost.
    Failed,
}

impl State {
    /// With their numbers in the file.
    const ALL: [(u64, Self); 5] = [
        (0, Self::Written),
        (1, Self::Sealed),
        (2, Self::Resetting),
        (3, Self::Committing),
        (4, Self::Failed),
    ];
}

/// The first page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub size: u64,
    pub block_size: u64,
    pub layout: Layout,
    pub uuid: Uuid,
    /// The disk that writes it: a snapshot's new upper is of the same one, a fork is of another.
    pub disk: Uuid,
    /// The last server that wrote to it, if there was one. Another one after a server that has lost data.
    pub server: Uuid,
    pub stamp: Stamp,
    pub state: State,
    pub base: String,
    pub parent: Option<Parent>,
    /// The layer that it was made over, which stays when it needs that no more. [`Uuid::NONE`]: it was made over the base.
    pub over: Uuid,
    /// It needs no base: it was flattened, or made over one that was.
    pub alone: bool,
    /// Which file the base is, while all of a chain, or what lies below this one, is being put into it. 0: none is.
    pub into: u64,
    /// The [checksum](Self::sum_of) of the identity that the base had when that was ended before it was done. 0: it is unknown,
    /// since the server was killed, or that is under way.
    pub partly: u64,
    /// The base has all that lies below this one, whose files are only to be removed.
    pub put: bool,
    /// Which of the two places has the base's identity.
    pub slot: usize,
}

impl Header {
    /// Of a new upper.
    pub fn new(shape: &Shape<'_>, uuid: Uuid, stamp: Stamp) -> Result<Self> {
        let Shape { size, block_size, base, parent, alone, .. } = shape;
        if *size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(Error::invalid(format!("an overlay of {size} bytes"))
                .hint("the size is a multiple of 512, and at least 512"));
        }
        if *size > MOST_SIZE {
            return Err(Error::invalid(format!("an overlay of {size} bytes is too large"))
                .hint(format!("an upper describes at most {MOST_SIZE} bytes")));
        }
        if base.len() > MOST_IDENTITY {
            return Err(Error::invalid(format!("the base's identity is longer than {MOST_IDENTITY} bytes")));
        }
        if let Some(parent) = parent {
            parent.check()?;
        }
        Ok(Self {
            size: *size,
            block_size: u64::from(*block_size),
            layout: Layout::new(*size),
            uuid,
            disk: uuid,
            server: Uuid::NONE,
            stamp,
            state: State::Written,
            base: (*base).to_owned(),
            parent: parent.clone(),
            over: parent.as_ref().map_or(Uuid::NONE, |parent| parent.uuid),
            alone: *alone,
            into: 0,
            partly: 0,
            put: false,
            slot: 0,
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> Page {
        let mut page = [0; to_usize(PAGE)];
        page[..16].copy_from_slice(MAGIC);
        let name = self.parent.as_ref().map_or("", |parent| &*parent.name);
        let state =
            State::ALL.iter().find(|(_, state)| *state == self.state).map_or(0, |(number, _)| *number);
        let numbers = [
            (16..24, VERSION),
            (SIZE, self.size),
            (BLOCK_SIZE, self.block_size),
            (CAPACITY, self.layout.capacity),
            (PLACE, self.stamp.place),
            (STATE, state),
            (BASE_LENGTH, self.base.len() as u64),
            (NAME_LENGTH, name.len() as u64),
            (ALONE, self.alone.into()),
            (INTO, self.into),
            (PARTLY, self.partly),
            (PUT, self.put.into()),
            (SLOT, self.slot as u64),
        ];
        for (at, number) in numbers {
            page[at].copy_from_slice(&number.to_le_bytes());
        }
        page[UUID].copy_from_slice(&self.uuid.0);
        page[DISK].copy_from_slice(&self.disk.0);
        page[SERVER].copy_from_slice(&self.server.0);
        page[PARENT].copy_from_slice(&self.over.0);
        page[BOOT].copy_from_slice(&self.stamp.boot);
        let base = BASES[self.slot];
        page[base..base + self.base.len()].copy_from_slice(self.base.as_bytes());
        page[NAME..NAME + name.len()].copy_from_slice(name.as_bytes());
        page
    }

    /// From the bytes of a file at `path`.
    pub fn of(path: &Path, page: &Page) -> Result<Self> {
        if !page.starts_with(MAGIC) {
            return Err(refused(path, "is no upper of an overlay").hint(NO_UPPER));
        }
        let number = |at: Range<usize>| page[at].try_into().map_or(0, u64::from_le_bytes);
        let version = number(16..24);
        if version > VERSION {
            return Err(refused(path, format!("is from a newer version of ublk-ts (format {version})"))
                .hint(format!("this version reads format {VERSION}: update it")));
        }
        let damaged = |what: &str| {
            refused(path, format!("is damaged: {what}")).hint("restore it from a copy, or use another upper")
        };
        let layout = Layout { capacity: number(CAPACITY) };
        let size = number(SIZE);
        let fits = layout.capacity.is_multiple_of(PAGE * 8 * BLOCK) && layout.capacity <= MOST_SIZE;
        if version == 0 || !fits || size == 0 || size > layout.capacity || !size.is_multiple_of(SECTOR) {
            return Err(damaged("its sizes are wrong"));
        }
        let text = |from: usize, length: u64, most: usize| {
            let length = usize::try_from(length).ok().filter(|length| *length <= most)?;
            String::from_utf8(page[from..from + length].to_vec()).ok()
        };
        let slot = usize::from(number(SLOT) != 0);
        let base = text(BASES[slot], number(BASE_LENGTH), MOST_IDENTITY)
            .ok_or_else(|| damaged("its base has no name"))?;
        let name =
            text(NAME, number(NAME_LENGTH), MOST_NAME).ok_or_else(|| damaged("its parent has no name"))?;
        let uuid = |at: Range<usize>| Uuid(page[at].try_into().unwrap_or_default());
        let parent = (!name.is_empty()).then(|| Parent { uuid: uuid(PARENT), name });
        if parent.as_ref().is_some_and(|parent| parent.check().is_err()) {
            return Err(damaged("its parent's name is no name of a file"));
        }
        let state = State::ALL.iter().find(|(state, _)| *state == number(STATE)).map(|(_, state)| *state);
        Ok(Self {
            size,
            block_size: number(BLOCK_SIZE),
            layout,
            uuid: uuid(UUID),
            disk: uuid(DISK),
            server: uuid(SERVER),
            stamp: Stamp { boot: page[BOOT].try_into().unwrap_or([0; 36]), place: number(PLACE) },
            state: state.ok_or_else(|| damaged("its state is unknown"))?,
            base,
            parent,
            over: uuid(PARENT),
            alone: number(ALONE) != 0,
            into: number(INTO),
            partly: number(PARTLY),
            put: number(PUT) != 0,
            slot,
        })
    }

    /// Whether the upper belongs to that disk. A layer of a chain may have another size: the disk was resized since.
    pub fn check(&self, path: &Path, shape: &Shape<'_>, layer: bool) -> Result<()> {
        let Shape { size, block_size, base, parent, file, .. } = shape;
        if self.size != *size && !layer {
            return Err(refused(path, format!("is of a disk of {} bytes, not {size}", self.size))
                .hint("give the disk the size that it had, or use another upper"));
        }
        if self.block_size != u64::from(*block_size) {
            return Err(refused(
                path,
                format!("is of a disk with blocks of {} bytes, not {block_size}", self.block_size),
            )
            .hint("use the block size that it was made with, or another upper"));
        }
        // It was changed since, by what was put into it: what lies below this one has all that it lacks.
        let put = self.into != 0 && self.state != State::Committing;
        if put && !layer && !self.alone {
            return self.check_put(path, *file, base);
        }
        if self.base != *base && !self.alone {
            return Err(refused(path, format!("was made over {}, and the base is {base}", self.base)).hint(
                "the base was changed or is another one: use the base that it was made over, or another upper",
            ));
        }
        let differs = |other: &Parent| self.parent.as_ref().is_none_or(|own| own.uuid != other.uuid);
        if parent.as_ref().is_some_and(differs) {
            return Err(refused(path, "was made over another snapshot").hint("use the one it was made over"));
        }
        Ok(())
    }
}

impl Header {
    /// The layer below, if one is needed.
    pub fn below(&self) -> Option<Parent> {
        self.parent.clone().filter(|_| !self.put)
    }

    /// Of a base's identity, never 0.
    pub fn sum_of(identity: &str) -> u64 {
        checksum(identity.bytes()).max(1)
    }

    /// Whether that file, with that identity now, is the base into which what lies below is being put.
    ///
    /// The content of a regular file counts if it is known: a copy of it may take its place, and what somebody else has put into
    /// the same file may not. Nobody knows that of a block device.
    pub fn is_put_into(&self, file: Option<u64>, identity: &str) -> bool {
        let Some(file) = file else { return false };
        match self.partly {
            partly if partly != 0 && (file | self.into) & OF_DEVICE == 0 => partly == Self::sum_of(identity),
            _ => file == self.into,
        }
    }

    fn check_put(&self, path: &Path, file: Option<u64>, identity: &str) -> Result<()> {
        if self.is_put_into(file, identity) {
            return Ok(());
        }
        Err(refused(path, "is over layers that were being put into another file than this base")
            .hint("use the base into which that was begun: it is partly the old one until it is done again"))
    }
}

const NO_UPPER: &str = "name an upper, or a file that does not exist yet: it is made then";

/// An upper that cannot be used.
pub fn refused(path: &Path, what: impl AsRef<str>) -> Error {
    Error::new(ErrorKind::Backend, format!("the upper {} {}", path.display(), what.as_ref()))
}
