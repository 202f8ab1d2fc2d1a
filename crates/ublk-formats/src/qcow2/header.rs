//! The header of an image: what the image needs, and whether it can be served.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use ublk_core::error::{Error, ErrorKind, Result};

const MAGIC: u32 = 0x5146_49fb;

/// Bytes: the most of a header, with its extensions and the name of the backing file, that are read.
const MOST: u64 = 64 << 10;

/// Bytes: the largest disk.
const LARGEST: u64 = 1 << 50;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    /// A cluster has this power of two of bytes.
    pub cluster_bits: u32,
    /// Bytes: of the disk.
    pub size: u64,
    pub backing: Option<BackingName>,
    pub l1: Table,
    /// The table of the blocks of reference counts.
    pub refcounts: Table,
    /// A reference count has this power of two of bits.
    pub refcount_order: u32,
    /// How many snapshots are inside the image.
    pub snapshots: u32,
}

/// A table of 64-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    pub offset: u64,
    pub entries: u64,
}

impl Table {
    /// Whether a byte of the file belongs to it.
    pub fn has(&self, offset: u64) -> bool {
        offset >= self.offset && offset - self.offset < self.entries * 8
    }
}

/// What the header says of the backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingName {
    pub name: String,
    pub format: Option<String>,
}

/// Why an image cannot be served.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is not a qcow2 image.
    Other,
    /// It contradicts itself.
    Broken(String),
    /// What it is or has, and what to do about it.
    Unable(String, &'static str),
}

const BY_QEMU: &str = "qemu-nbd serves it; qemu-img convert makes an image without that";
const BY_CHECK: &str = "qemu-img check -r all may mend it";

fn broken<T>(what: impl Into<String>) -> std::result::Result<T, Problem> {
    Err(Problem::Broken(what.into()))
}

fn unable<T>(what: impl Into<String>, hint: &'static str) -> std::result::Result<T, Problem> {
    Err(Problem::Unable(what.into(), hint))
}

impl Header {
    /// Reads the header of an open file.
    pub fn read(file: &File, path: &Path) -> Result<Self> {
        let name = path.display();
        let begin = first_bytes(file)
            .map_err(|error| Error::system(format!("cannot read {name}"), &error).kind(ErrorKind::Backend))?;
        Self::parse(&begin).map_err(|problem| match problem {
            Problem::Other => Error::new(ErrorKind::Backend, format!("{name} is not a qcow2 image"))
                .hint("qemu-img info says what it is; serve an image without a format as a file"),
            Problem::Broken(what) => {
                Error::new(ErrorKind::Backend, format!("{name} is damaged: {what}")).hint(BY_CHECK)
            }
            Problem::Unable(what, hint) => {
                Error::new(ErrorKind::Unsupported, format!("{name} {what}")).hint(hint)
            }
        })
    }

    /// Reads a header. `bytes`: the beginning of the image.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, Problem> {
        if number(bytes, 0, 4) != Some(MAGIC.into()) {
            return Err(Problem::Other);
        }
        let field = |at, length| {
            number(bytes, at, length).ok_or_else(|| Problem::Broken("its header is not complete".into()))
        };
        #[expect(clippy::cast_possible_truncation, reason = "a field of 32 bits")]
        let word = |at| field(at, 4).map(|value| value as u32);
        let version = word(4)?;
        let header_length = match version {
            2 => 72,
            3 => word(100)?,
            _ => return unable(format!("has version {version} of the format"), BY_QEMU),
        };
        let (cluster_bits, size) = (word(20)?, field(24, 8)?);
        if !(9..=21).contains(&cluster_bits) {
            return broken(format!("its clusters have 2^{cluster_bits} bytes"));
        }
        let cluster = 1_u64 << cluster_bits;
        if version == 3 && (header_length < 104 || u64::from(header_length) > cluster) {
            return broken(format!("its header has {header_length} bytes"));
        }
        Self::check_features(bytes, version, header_length)?;
        if size == 0 || !size.is_multiple_of(512) {
            return unable(
                format!("has a disk of {size} bytes"),
                "a disk consists of blocks of 512 bytes; qemu-img resize changes its size",
            );
        }
        if size > LARGEST {
            return unable(format!("has a disk of {size} bytes, more than 1 PiB"), BY_QEMU);
        }
        let l1 = Table { offset: field(40, 8)?, entries: word(36)?.into() };
        let refcounts = Table { offset: field(48, 8)?, entries: u64::from(word(56)?) * (cluster / 8) };
        for (name, table, most) in [("L1 table", l1, 4 << 20), ("refcount table", refcounts, 1 << 20)] {
            if !table.offset.is_multiple_of(cluster) || table.offset == 0 || table.offset >= 1 << 56 {
                return broken(format!("its {name} is at byte {}", table.offset));
            }
            if table.entries > most.max(cluster / 8) {
                return broken(format!("its {name} has {} entries", table.entries));
            }
        }
        let needed = size.div_ceil(cluster * (cluster / 8));
        if l1.entries < needed {
            return broken(format!("its L1 table has {} entries instead of {needed}", l1.entries));
        }
        let refcount_order = if version == 3 { word(96)? } else { 4 };
        if refcount_order > 6 {
            return broken(format!("its reference counts have 2^{refcount_order} bits"));
        }
        let backing = Self::backing(bytes, header_length, cluster)?;
        Ok(Self { version, cluster_bits, size, backing, l1, refcounts, refcount_order, snapshots: word(60)? })
    }

    /// Refuses what imago cannot do, or does not do safely.
    fn check_features(bytes: &[u8], version: u32, header_length: u32) -> std::result::Result<(), Problem> {
        match number(bytes, 32, 4) {
            Some(0) => {}
            Some(2) => return unable("is encrypted with LUKS", BY_QEMU),
            _ => return unable("is encrypted", BY_QEMU),
        }
        if version < 3 {
            return Ok(());
        }
        let needed = number(bytes, 72, 8).unwrap_or_default();
        let has = |bit: u32| needed & 1 << bit != 0;
        if has(1) {
            return unable("is marked as corrupt", BY_CHECK);
        }
        if has(0) {
            return unable(
                "was not closed: its dirty bit is set, and its reference counts may be wrong",
                "qemu-img check -r all mends them",
            );
        }
        if has(2) {
            return unable("keeps its data in another file", BY_QEMU);
        }
        let compression = if header_length > 104 { number(bytes, 104, 1).unwrap_or_default() } else { 0 };
        if has(3) || compression != 0 {
            return unable("is compressed in another way than by zlib", BY_QEMU);
        }
        if has(4) {
            return unable("has extended L2 entries", BY_QEMU);
        }
        match needed {
            0 => Ok(()),
            _ => unable(format!("needs unknown features ({needed:#x})"), BY_QEMU),
        }
    }

    fn backing(
        bytes: &[u8],
        header_length: u32,
        cluster: u64,
    ) -> std::result::Result<Option<BackingName>, Problem> {
        let (at, length) =
            (number(bytes, 8, 8).unwrap_or_default(), number(bytes, 16, 4).unwrap_or_default());
        if at == 0 {
            return Ok(None);
        }
        let end = at.checked_add(length).filter(|end| *end < cluster && (1..=1023).contains(&length));
        let name = end.and_then(|end| bytes.get(usize::try_from(at).ok()?..usize::try_from(end).ok()?));
        match name.map(|name| String::from_utf8(name.to_vec())) {
            Some(Ok(name)) if !name.contains('\0') => {
                Ok(Some(BackingName { name, format: Self::backing_format(bytes, header_length) }))
            }
            _ => broken("the name of its backing file cannot be read"),
        }
    }

    /// The header extension with the format of the backing file.
    fn backing_format(bytes: &[u8], header_length: u32) -> Option<String> {
        const BACKING_FORMAT: u64 = 0xe279_2aca;
        let mut at = header_length as usize;
        loop {
            let (kind, length) = (number(bytes, at, 4)?, usize::try_from(number(bytes, at + 4, 4)?).ok()?);
            at = at.checked_add(8)?;
            match kind {
                0 => return None,
                BACKING_FORMAT => {
                    return String::from_utf8(bytes.get(at..at.checked_add(length)?)?.to_vec()).ok();
                }
                _ => at = at.checked_add(length.checked_next_multiple_of(8)?)?,
            }
        }
    }
}

fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(MOST).unwrap_or_default()];
    let mut done = 0;
    loop {
        match file.read_at(&mut bytes[done..], done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// A number of `length` bytes, the most significant first.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
