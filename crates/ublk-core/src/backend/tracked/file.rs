//! A disk's change map: the file that keeps its record of changes from one server to the next. All numbers are little-endian.
//!
//! | part | what it holds |
//! |---|---|
//! | a page | the header, of which only the first 512 bytes are used: a medium writes them as a whole |
//! | two slots | a list of checkpoints each. The valid one with the higher number counts |
//! | body | the pages of the tables that are not all zeroes, each with the number of its checkpoint and its place |
//!
//! **Order.** The body counts only if the header says `complete`, and names that body's checksum.
//!
//! - When a disk begins to be served, the header is written without `complete`, and synced, before any request is passed
//!   on. So whatever a crash leaves while the disk is served, its header names no body: everything counts as changed.
//! - A list is written to the slot that does not count, and synced, before its checkpoint is reported as made. If that is
//!   interrupted, the other slot counts, in which a new checkpoint is missing, or a removed one is still there.
//! - When the disk is not served any more, the body and a list are written and synced, then the header with `complete`.
//!   That is itself not synced: if it is lost, everything counts as changed.
//!
//! **Power failures.** The body says what was written to the disk's files, but if that was not flushed, a power failure may
//! take it back, without a mark. So `complete` counts only in the boot and mount in which it was written
//! ([`Stamp`]), unless the files of the disk were synced afterwards (`sealed`).

use super::BLOCK;
use super::session::Entry;
use crate::backend::map_file::{self, Stamp, checksum};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const PAGE: u64 = 4096;
const MAGIC: &[u8; 16] = b"ublk-ts changes\0";
const VERSION: u64 = 1;
/// The part of the header that is used.
const ATOM: usize = 512;
/// A list of checkpoints has room for all that are possible.
const SLOT: u64 = 64 << 10;
/// The most checkpoints of a disk.
pub const MOST: usize = 128;
/// The longest name of a checkpoint, in bytes.
pub const MOST_NAME: usize = 255;
/// Where the body begins.
const BODY: u64 = PAGE + 2 * SLOT;
const WORDS_PER_PAGE: usize = to_usize(PAGE) / 8;

const VERSION_AT: Range<usize> = 16..24;
const SIZE: Range<usize> = 24..32;
/// While the disk is resized, the other of its two sizes.
const OTHER_SIZE: Range<usize> = 32..40;
const STATE: Range<usize> = 40..48;
const LIST: Range<usize> = 48..56;
const LENGTH: Range<usize> = 56..64;
const SUM: Range<usize> = 64..72;
const CONTENT: Range<usize> = 72..80;
const PLACE: Range<usize> = 80..88;
const BOOT: Range<usize> = 88..124;
const OWN_SUM: Range<usize> = 504..512;

/// The body does not count.
const OPEN: u64 = 0;
const COMPLETE: u64 = 1;
const SEALED: u64 = 2;

/// Where a change map is. A file, or in tests a medium that loses power.
pub trait Medium: Send + Sync {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    fn set_length(&self, length: u64) -> io::Result<()>;
    fn stamp(&self) -> io::Result<Stamp>;
}

impl Medium for File {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(bytes, at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|found| found.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn stamp(&self) -> io::Result<Stamp> {
        Stamp::now(self)
    }
}

/// The disk, as it is when it begins to be served.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub size: u64,
    /// What tells its content from another.
    pub content: u64,
    pub read_only: bool,
}

/// The first part of a change map.
#[derive(Debug, Clone, Copy)]
struct Header {
    size: u64,
    other_size: u64,
    state: u64,
    /// The number of the list that belongs to the body.
    list: u64,
    /// Of the body, in bytes.
    length: u64,
    sum: u64,
    content: u64,
    stamp: Stamp,
}

fn number(bytes: &[u8], at: Range<usize>) -> u64 {
    bytes.get(at).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Header {
    fn bytes(&self) -> [u8; ATOM] {
        let mut bytes = [0; ATOM];
        bytes[..16].copy_from_slice(MAGIC);
        for (at, number) in [
            (VERSION_AT, VERSION),
            (SIZE, self.size),
            (OTHER_SIZE, self.other_size),
            (STATE, self.state),
            (LIST, self.list),
            (LENGTH, self.length),
            (SUM, self.sum),
            (CONTENT, self.content),
            (PLACE, self.stamp.place),
        ] {
            bytes[at].copy_from_slice(&number.to_le_bytes());
        }
        bytes[BOOT].copy_from_slice(&self.stamp.boot);
        let sum = checksum(bytes[..OWN_SUM.start].iter().copied());
        bytes[OWN_SUM].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` if it is damaged.
    fn of(bytes: &[u8; ATOM]) -> Option<Self> {
        let sum = checksum(bytes[..OWN_SUM.start].iter().copied());
        (number(bytes, OWN_SUM) == sum).then(|| Self {
            size: number(bytes, SIZE),
            other_size: number(bytes, OTHER_SIZE),
            state: number(bytes, STATE),
            list: number(bytes, LIST),
            length: number(bytes, LENGTH),
            sum: number(bytes, SUM),
            content: number(bytes, CONTENT),
            stamp: Stamp {
                boot: bytes[BOOT].try_into().unwrap_or(Stamp::NEVER.boot),
                place: number(bytes, PLACE),
            },
        })
    }
}

/// The header of a change map that is not new; `None` of a new one. A damaged header says that everything has changed.
fn header(medium: &dyn Medium, path: &Path, size: u64) -> Result<Option<Option<Header>>> {
    let name = path.display();
    let refused = |what: String| Error::new(ErrorKind::Backend, format!("the change map {name} {what}"));
    let failed = |error: io::Error| {
        Error::system(format!("cannot use the change map {name}"), &error).kind(ErrorKind::Backend)
    };
    let length = medium.length().map_err(failed)?;
    if length == 0 {
        return Ok(None);
    }
    const OTHER: &str = "name another file: a new one records all changes from then on";
    let mut bytes = [0; ATOM];
    if length < ATOM as u64 {
        return Err(refused("was truncated".into()).hint(OTHER));
    }
    medium.read(&mut bytes, 0).map_err(failed)?;
    if length == BODY && bytes.iter().all(|byte| *byte == 0) {
        return Ok(None); // its creator died before it wrote the header
    }
    if !bytes.starts_with(MAGIC) {
        return Err(refused("is no change map".into()).hint(OTHER));
    }
    match number(&bytes, VERSION_AT) {
        VERSION => {}
        version => {
            let what = format!("has version {version}, and this ublk-ts knows version {VERSION}");
            return Err(refused(what).hint("use the ublk-ts that made it, or name another file"));
        }
    }
    if length < BODY {
        return Err(refused("was truncated".into()).hint(OTHER));
    }
    let header = Header::of(&bytes);
    if let Some(header) = header
        && ![header.size, header.other_size].contains(&size)
    {
        let what = format!("is of a disk of {} bytes, and this one has {size}", header.size);
        return Err(refused(what).hint("name the map that was made with this disk, or a new file"));
    }
    if let Some(header) = header
        && length < BODY + header.length
    {
        return Err(refused("was truncated".into()).hint(OTHER));
    }
    Ok(Some(header))
}

/// Checks a change map before its disk is served.
pub fn check(file: &File, path: &Path, size: u64) -> Result<()> {
    header(file, path, size).map(drop)
}

/// A change map that was completed.
pub struct Left(Header);

/// A list of checkpoints.
struct List {
    number: u64,
    entries: Vec<Entry>,
}

/// See the [module](self).
pub struct ChangeMap {
    medium: Arc<dyn Medium>,
    path: PathBuf,
    /// Of the list that counts.
    list: u64,
    size: u64,
    stamp: Stamp,
}

impl ChangeMap {
    pub fn new(medium: Arc<dyn Medium>, path: &Path) -> Self {
        Self { medium, path: path.to_owned(), list: 0, size: 0, stamp: Stamp::NEVER }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoints that it has. From here on they count as unknown for everybody else, unless the disk is read-only.
    pub fn begin(&mut self, found: &Found) -> Result<Vec<Entry>> {
        let path = self.path.clone();
        let header = header(&*self.medium, &path, found.size)?;
        let failed = |error: io::Error| {
            Error::system(format!("cannot use the change map {}", path.display()), &error)
                .kind(ErrorKind::Backend)
        };
        (self.size, self.stamp) = (found.size, self.medium.stamp().map_err(failed)?);
        let new = header.is_none();
        let entries = match header {
            None => Vec::new(),
            Some(header) => self.read(header, found).map_err(failed)?,
        };
        if found.read_only {
            return Ok(entries);
        }
        if new {
            self.medium.set_length(BODY).map_err(failed)?;
        }
        self.open(self.size, self.size).map_err(failed)?;
        if new && path.exists() {
            map_file::sync_parent(&path).map_err(failed)?;
        }
        Ok(entries)
    }

    /// A header without a body.
    fn open(&self, size: u64, other_size: u64) -> io::Result<()> {
        let (list, stamp) = (self.list, self.stamp);
        let header = Header { size, other_size, state: OPEN, list, length: 0, sum: 0, content: 0, stamp };
        self.medium.write(&header.bytes(), 0)?;
        self.medium.sync()
    }

    fn read(&mut self, header: Option<Header>, found: &Found) -> io::Result<Vec<Entry>> {
        let lists = [self.read_list(0)?, self.read_list(1)?];
        let Some(List { number, mut entries }) = lists.into_iter().flatten().max_by_key(|list| list.number)
        else {
            return Ok(Vec::new());
        };
        self.list = number;
        let trusted = header.filter(|header| {
            let kept =
                header.state == SEALED || header.state == COMPLETE && header.stamp.vouches(&self.stamp);
            let same = header.content == found.content && header.size == found.size;
            kept && same && header.list == number
        });
        let known = match trusted {
            Some(header) => self.read_body(&header, &entries)?,
            None => false,
        };
        if !known {
            entries.iter_mut().for_each(|entry| entry.known = false);
        }
        Ok(entries)
    }

    fn slot(number: u64) -> u64 {
        PAGE + number % 2 * SLOT
    }

    fn read_list(&self, slot: u64) -> io::Result<Option<List>> {
        let mut bytes = vec![0; to_usize(SLOT)];
        self.medium.read(&mut bytes, Self::slot(slot))?;
        let end = to_usize(SLOT) - 8;
        let sum = checksum(bytes[..end].iter().copied());
        if number(&bytes, end..end + 8) != sum {
            return Ok(None);
        }
        let (list, count) = (number(&bytes, 0..8), number(&bytes, 8..16));
        let mut entries = Vec::new();
        let mut at = 16;
        for _ in 0..count {
            let (made, known, length) = (
                number(&bytes, at..at + 8),
                number(&bytes, at + 8..at + 16),
                number(&bytes, at + 16..at + 24),
            );
            let name = bytes.get(at + 24..at + 24 + to_usize(length.min(MOST_NAME as u64)));
            let Some(name) = name.and_then(|name| std::str::from_utf8(name).ok()) else { return Ok(None) };
            let bits = Arc::new(Entry::table(self.size)?);
            entries.push(Entry { name: name.to_owned(), made, known: known == 1, bits });
            at += 24 + name.len();
        }
        Ok((list > 0).then_some(List { number: list, entries }))
    }

    /// Writes a list of checkpoints, which counts from then on.
    pub fn write_list(&mut self, entries: &[Entry]) -> io::Result<()> {
        let number = self.list + 1;
        let mut bytes = Vec::with_capacity(to_usize(SLOT));
        for number in [number, entries.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for Entry { name, made, known, .. } in entries {
            for number in [*made, u64::from(*known), name.len() as u64] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(name.as_bytes());
        }
        bytes.resize(to_usize(SLOT) - 8, 0);
        bytes.extend(checksum(bytes.iter().copied()).to_le_bytes());
        self.medium.write(&bytes, Self::slot(number))?;
        self.medium.sync()?;
        self.list = number;
        Ok(())
    }

    /// The disk is about to get another size.
    pub fn resize(&mut self, size: u64) -> io::Result<()> {
        self.open(size, self.size)?;
        self.size = size;
        Ok(())
    }

    /// Whether the body is whole: then the tables are filled from it.
    fn read_body(&self, header: &Header, entries: &[Entry]) -> io::Result<bool> {
        let mut pages = Vec::new();
        let mut bytes = vec![0; 16 + to_usize(PAGE)];
        let (mut sum, mut at) = (checksum(std::iter::empty()), 0);
        while at < header.length {
            self.medium.read(&mut bytes, BODY + at)?;
            sum = next_sum(sum, &bytes);
            pages.push((number(&bytes, 0..8), number(&bytes, 8..16), at));
            at += bytes.len() as u64;
        }
        if sum != header.sum {
            return Ok(false);
        }
        for (entry, page, at) in pages {
            self.medium.read(&mut bytes, BODY + at)?;
            let word = to_usize(page).saturating_mul(WORDS_PER_PAGE);
            match entries.get(to_usize(entry)) {
                Some(entry) if word < entry.bits.words() => entry.bits.fill(word, &swapped(&bytes[16..])),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The disk is not served any more: all is written.
    pub fn complete(&mut self, entries: &[Entry], content: u64) -> io::Result<Left> {
        let (mut length, mut sum) = (0, checksum(std::iter::empty()));
        let end = self.medium.length()?;
        let pages = to_usize(self.size.div_ceil(BLOCK).div_ceil(PAGE * 8)); // the disk may have been larger
        for (number, entry) in (0_u64..).zip(entries) {
            for page in 0..pages.min(entry.bits.words() / WORDS_PER_PAGE) {
                let words = page * WORDS_PER_PAGE..(page + 1) * WORDS_PER_PAGE;
                if words.clone().all(|word| entry.bits.is_zero(word)) {
                    continue;
                }
                let mut bytes = Vec::with_capacity(16 + to_usize(PAGE));
                bytes.extend(number.to_le_bytes());
                bytes.extend((page as u64).to_le_bytes());
                bytes.extend(swapped(&entry.bits.bytes(words)));
                self.medium.write(&bytes, BODY + length)?;
                sum = next_sum(sum, &bytes);
                length += bytes.len() as u64;
            }
        }
        if end > BODY + length {
            self.medium.set_length(BODY + length)?;
        }
        self.write_list(entries)?; // and syncs
        let header = Header {
            size: self.size,
            other_size: self.size,
            state: COMPLETE,
            list: self.list,
            length,
            sum,
            content,
            stamp: self.stamp,
        };
        self.medium.write(&header.bytes(), 0)?;
        Ok(Left(header))
    }

    /// The disk's files were synced since the map was [completed](Self::complete): it counts after a power failure as
    /// well, unless another server has begun with it meanwhile.
    pub fn seal(&self, Left(left): &Left) -> io::Result<()> {
        let mut bytes = [0; ATOM];
        self.medium.read(&mut bytes, 0)?;
        if bytes != left.bytes() {
            return Ok(());
        }
        let sealed = Header { state: SEALED, ..*left };
        self.medium.write(&sealed.bytes(), 0)?;
        self.medium.sync()
    }
}

/// As [`checksum`], of words.
fn next_sum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).fold(sum, |sum, word| (sum ^ number(word, 0..8)).wrapping_mul(0x0100_0000_01b3))
}

/// Words of memory as words of a file, or back.
fn swapped(bytes: &[u8]) -> Vec<u8> {
    if cfg!(target_endian = "little") {
        return bytes.to_vec();
    }
    bytes.chunks_exact(8).flat_map(|word| word.iter().rev().copied()).collect()
}
