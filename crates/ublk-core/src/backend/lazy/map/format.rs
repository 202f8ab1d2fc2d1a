//! The bytes of a map's file: a page of header, then the tables `saved` and `live`, and that of a bounded cache `dirty`.

use super::Identity;
use crate::backend::bits::Bits;
use crate::backend::map_file;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(super) const PAGE: usize = 4096;
pub(super) const WORDS_PER_PAGE: usize = PAGE / 8;
const MAGIC: &[u8; 16] = b"ublk-ts lazy map";
/// A map's version says which tables it has.
const fn version(bounded: bool) -> u64 {
    if bounded { 2 } else { 1 }
}

/// How many tables a map has.
pub(super) const fn tables_of(bounded: bool) -> usize {
    if bounded { 3 } else { 2 }
}

/// The boot and mount in which `live` is trusted, and how the map was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    written: map_file::Stamp,
    /// A bounded cache's disk was closed, with everything saved, and nobody has used it since.
    pub(super) closed: bool,
}

impl Stamp {
    /// Matches no boot.
    pub(super) const NEVER: Self = Self { written: map_file::Stamp::NEVER, closed: false };

    pub(super) fn now(file: &File) -> io::Result<Self> {
        Ok(Self { written: map_file::Stamp::now(file)?, closed: false })
    }

    pub(super) fn stored(page: &[u8; PAGE]) -> Self {
        let place = page[PLACE].try_into().map_or(0, u64::from_le_bytes);
        let closed = page[CLOSED].iter().any(|byte| *byte != 0);
        let boot = page[BOOT].try_into().unwrap_or([0; 36]);
        Self { written: map_file::Stamp { boot, place }, closed }
    }

    /// Whether the page cache or medium still has all that was written under that stamp.
    pub(super) fn vouches(&self, now: &Self) -> bool {
        self.written.vouches(&now.written)
    }
}

/// The words of a page of a table.
pub(super) fn words(page: usize) -> Range<usize> {
    page * WORDS_PER_PAGE..(page + 1) * WORDS_PER_PAGE
}

/// Checks that the file is the map of that disk. Returns the stamp of its last use.
pub(super) fn check(
    file: &File,
    path: &Path,
    identity: &Identity,
    bounded: bool,
    table: usize,
) -> Result<Stamp> {
    let name = path.display();
    let refused = |what: &str| {
        Error::new(ErrorKind::Backend, format!("the map {name} {what}"))
            .hint("use another cache: this one may hold written data, which only its map can find")
    };
    let mut page = [0; PAGE];
    let length = file.metadata().map_or(0, |found| found.len());
    match file.read_exact_at(&mut page, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(refused("was truncated")),
        Err(error) => {
            return Err(Error::system(format!("cannot use the map {name}"), &error).kind(ErrorKind::Backend));
        }
        Ok(()) => {}
    }
    let stored = Stamp::stored(&page);
    let stamp = Stamp { closed: stored.closed && bounded, ..stored };
    if !page.starts_with(MAGIC) {
        return Err(refused("is not a map of ublk-ts"));
    }
    if page[16..24] == version(!bounded).to_le_bytes() {
        return Err(refused(if bounded {
            "does not say what was written: its cache was made without a bound"
        } else {
            "is of a bounded cache"
        })
        .hint(
            Hint::from("use it as it was made, with or without a bound")
                .by(Remedy::CacheBound)
                .and(", or use another cache"),
        ));
    }
    if page[16..24] != version(bounded).to_le_bytes() {
        return Err(refused("is of another version of ublk-ts"));
    }
    if page != header(identity, bounded, &stamp) {
        return Err(refused("is of another disk, or of another version of its image").hint(
            "its cache may hold written data: use it with the source or identity, the size and the chunk size that it was made \
             with, or use another cache",
        ));
    }
    if length != (PAGE + tables_of(bounded) * table) as u64 {
        return Err(refused("has the wrong size"));
    }
    Ok(stamp)
}

/// Everything but the stamp identifies the disk.
pub(super) fn header(identity: &Identity, bounded: bool, stamp: &Stamp) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..16].copy_from_slice(MAGIC);
    let big_endian = u64::from(cfg!(target_endian = "big"));
    for (at, number) in [version(bounded), identity.size, identity.chunk, big_endian].into_iter().enumerate()
    {
        page[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
    }
    page[BOOT].copy_from_slice(&stamp.written.boot);
    page[PLACE].copy_from_slice(&stamp.written.place.to_le_bytes());
    page[CLOSED].copy_from_slice(&u64::from(stamp.closed).to_le_bytes());
    page[256..256 + identity.name.len()].copy_from_slice(identity.name.as_bytes());
    page
}

/// Where the header has the id of the boot in which `live` was used.
pub(super) const BOOT: Range<usize> = 64..100;
/// The position of the mount's number.
pub(super) const PLACE: Range<usize> = 104..112;
/// Whether the disk was closed.
pub(super) const CLOSED: Range<usize> = 112..120;

/// Writes a part of a table while the disk is served. After a failure any part of it may be written.
pub(super) fn put(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    #[cfg(test)]
    if let Some(failed) = super::faults::inject(file, bytes, at) {
        return failed;
    }
    file.write_all_at(bytes, at)
}

pub(super) fn read(file: &File, from: usize, table: &Bits) -> io::Result<()> {
    let mut page = [0; PAGE];
    for word in (0..table.words()).step_by(WORDS_PER_PAGE) {
        file.read_exact_at(&mut page, (from + word * 8) as u64)?;
        table.fill(word, &page);
    }
    Ok(())
}

/// All of its pages.
pub(super) fn write_all(file: &File, to: usize, table: &Bits) -> io::Result<()> {
    (0..table.words() / WORDS_PER_PAGE)
        .try_for_each(|page| file.write_all_at(&table.bytes(words(page)), (to + page * PAGE) as u64))
}

/// Its pages that are not all zeroes.
pub(super) fn write(file: &File, to: usize, table: &Bits) -> io::Result<()> {
    for page in 0..table.words() / WORDS_PER_PAGE {
        let bytes = table.bytes(words(page));
        if bytes.iter().any(|byte| *byte != 0) {
            file.write_all_at(&bytes, (to + page * PAGE) as u64)?;
        }
    }
    Ok(())
}

/// What two tables have in common, all of its pages.
pub(super) fn write_both(file: &File, to: usize, one: &Bits, other: &Bits) -> io::Result<()> {
    (0..one.words() / WORDS_PER_PAGE).try_for_each(|page| {
        let bytes = both(&one.bytes(words(page)), &other.bytes(words(page)));
        file.write_all_at(&bytes, (to + page * PAGE) as u64)
    })
}

/// The bits that two pieces of tables have in common.
pub(super) fn both(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter().zip(other).map(|(one, other)| one & other).collect()
}
