//! Which chunks the local file has: a file beside it, so that the next server finds them.
//!
//! A slot's entry is cleared before the slot is written, and written afterwards: a killed server leaves no entry of data that is
//! not there. A power failure may keep an entry without its data, so after one, nothing counts, unless the disk was closed.

use super::format::{LogId, sum};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use ublk_core::backend::Stamp;

const MAGIC: &[u8; 16] = b"ublk-ts chunks1\n";
const HEADER: u64 = 4096;
const ENTRY: usize = 16;

/// A chunk of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The segment.
    pub id: LogId,
    /// From 0.
    pub chunk: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Index {
    file: File,
    volume: String,
}

impl Index {
    /// Opens the index of a local file with this number of slots, or makes one. Returns the entries that are valid.
    pub fn open(path: &Path, volume: &str, slots: u32) -> io::Result<(Self, Vec<(u32, Chunk)>)> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = HEADER + u64::from(slots) * ENTRY as u64;
        let now = Stamp::now(&file)?;
        let mut header = [0; 128];
        let whole = file.metadata()?.len() == length && file.read_exact_at(&mut header, 0).is_ok();
        let mut boot = [0; 36];
        boot.copy_from_slice(&header[16..52]);
        let stamp = Stamp { boot, place: header[52..60].try_into().map_or(0, u64::from_le_bytes) };
        let counts = header[60] == 1 || stamp.vouches(&now);
        let mut found = Vec::new();
        if whole && counts && header.starts_with(MAGIC) && &header[64..128] == name(volume).as_slice() {
            let mut bytes = vec![0; usize::try_from(length - HEADER).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, HEADER)?;
            found = (0..slots)
                .zip(bytes.chunks_exact(ENTRY))
                .filter_map(|(slot, entry)| Some((slot, decode(entry)?)))
                .collect();
        } else {
            file.set_len(0)?;
            file.set_len(length)?;
        }
        let index = Self { file, volume: volume.to_owned() };
        index.stamp(&now, false)?;
        Ok((index, found))
    }

    fn stamp(&self, stamp: &Stamp, closed: bool) -> io::Result<()> {
        let mut header = [0; 128];
        header[..16].copy_from_slice(MAGIC);
        header[16..52].copy_from_slice(&stamp.boot);
        header[52..60].copy_from_slice(&stamp.place.to_le_bytes());
        header[60] = u8::from(closed);
        header[64..].copy_from_slice(&name(&self.volume));
        self.file.write_all_at(&header, 0)
    }

    /// Nobody finds anything in a slot from here on.
    pub fn clear(&self, slot: u32) -> io::Result<()> {
        self.file.write_all_at(&[0; ENTRY], HEADER + u64::from(slot) * ENTRY as u64)
    }

    /// A slot has a chunk.
    pub fn set(&self, slot: u32, chunk: Chunk) -> io::Result<()> {
        self.file.write_all_at(&encode(chunk), HEADER + u64::from(slot) * ENTRY as u64)
    }

    /// The disk is closed, and all data is durable: everything counts, after a power failure, too. It has to be
    /// [opened](Self::reopened) durably before anything is changed.
    pub fn close(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.stamp(&Stamp::now(&self.file)?, true)?;
        self.file.sync_data()
    }

    /// Before anything is changed: the medium does not say any more that the disk was closed.
    pub fn reopened(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn name(volume: &str) -> [u8; 64] {
    let mut name = [0; 64];
    let length = volume.len().min(64);
    name[..length].copy_from_slice(&volume.as_bytes()[..length]);
    name
}

fn encode(Chunk { id, chunk }: Chunk) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    for (at, number) in [id.epoch, id.sequence, chunk + 1].into_iter().enumerate() {
        entry[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
    }
    let sum = sum(&entry[..12]);
    entry[12..].copy_from_slice(&sum.to_le_bytes());
    entry
}

fn decode(entry: &[u8]) -> Option<Chunk> {
    let [epoch, sequence, chunk, kept] =
        [0, 4, 8, 12].map(|at| entry[at..at + 4].try_into().map_or(0, u32::from_le_bytes));
    let found = Chunk { id: LogId { epoch, sequence }, chunk: chunk.checked_sub(1)? };
    (sum(&entry[..12]) == kept).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_found_in_the_same_boot_or_once_it_was_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let chunk = |chunk| Chunk { id: LogId { epoch: 1, sequence: 2 }, chunk };
        let (index, found) = Index::open(&path, "v", 10).unwrap();
        assert!(found.is_empty());
        index.set(3, chunk(0)).unwrap();
        index.set(4, chunk(1)).unwrap();
        index.clear(3).unwrap();
        let left = [(4, chunk(1))];
        let (index, found) = Index::open(&path, "v", 10).unwrap();
        assert_eq!(found, left);
        // The power fails.
        index.stamp(&Stamp::NEVER, true).unwrap();
        let (index, found) = Index::open(&path, "v", 10).unwrap();
        assert_eq!(found, left);
        index.stamp(&Stamp::NEVER, false).unwrap();
        assert_eq!(Index::open(&path, "v", 10).unwrap().1, []);
        let (index, _) = Index::open(&path, "v", 10).unwrap();
        index.set(0, chunk(9)).unwrap();
        assert_eq!(Index::open(&path, "w", 10).unwrap().1, []);
        assert_eq!(Index::open(&path, "w", 11).unwrap().1, []);
    }
}
