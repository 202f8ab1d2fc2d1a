//! A disk in memory: uses memory only for what was written; discard and write-zeroes free it.

use super::{Backend, Engine, Io, Piece, Properties, Readable, Site, Step, Storage, in_memory};
use crate::abi::{page_size, round_up};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::number::{is_within, to_usize};
use crate::pages::Pages;
use crate::queue::{CopyMode, Op};
use std::io;
use std::iter::once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// The disk's data: an anonymous mapping, and further ones if it grew. A page exists from its first write until it is
/// discarded.
///
/// Queues access the same bytes at the same time only if the disk's clients race for a sector; then the result is undefined
/// for them. Bytes are only copied, through raw pointers, never borrowed.
pub struct Memory {
    first: Mapping,
    /// The mappings added by growing, each starting where the last one ends. A mapping never moves.
    grown: [OnceLock<Mapping>; GROWTHS],
    size: AtomicU64,
    pages: Pages,
}

/// Each growth at least doubles the mapped size, so this number is enough for every size that can be addressed.
const GROWTHS: usize = 48;

impl Memory {
    /// The copy modes that it supports, the best first.
    pub const COPY_MODES: &'static [CopyMode] = &[CopyMode::Copy, CopyMode::User];

    /// An empty disk of `size` bytes.
    pub fn new(size: u64) -> Result<Self> {
        Self::with(size, Pages::default())
    }

    /// A disk whose pages are allocated as `pages` says. Discarded pages are freed in any case.
    pub fn with(size: u64, pages: Pages) -> Result<Self> {
        let length = addressable(size)?;
        if length == 0 {
            return Err(Error::invalid("the size is 0").hint("a disk has at least one block"));
        }
        let first = map(length, size, pages)?;
        Ok(Self { first, grown: [const { OnceLock::new() }; GROWTHS], size: AtomicU64::new(size), pages })
    }

    /// The same without transparent huge pages: it takes up the pages that are written to, and no others beside them.
    pub fn in_small_pages(self) -> Result<Self> {
        match self.first.advise(libc::MADV_NOHUGEPAGE) {
            // A kernel without huge pages.
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
                Err(Error::system("cannot do without huge pages", &error))
            }
            _ => Ok(self),
        }
    }

    /// Whether the range is within the disk. The driver ensures it, but memory safety must not depend on the driver.
    fn contains(&self, offset: u64, length: u64) -> bool {
        is_within(offset, length, self.size.load(Relaxed))
    }

    fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        once(&self.first).chain(self.grown.iter().map_while(OnceLock::get))
    }

    /// The parts of a range, in order: in which mapping, from where on, and how much.
    fn pieces(&self, offset: usize, length: usize) -> impl Iterator<Item = (&Mapping, usize, usize)> {
        let mut start = 0;
        self.mappings().filter_map(move |mapping| {
            let (from, to) = (offset.max(start), (offset + length).min(start + mapping.length()));
            let local = from.wrapping_sub(start);
            start += mapping.length();
            (from < to).then_some((mapping, local, to.wrapping_sub(from)))
        })
    }

    /// Makes a range read back as zeroes; whole pages of it go back to the system.
    fn zero(&self, offset: usize, length: usize) -> io::Result<()> {
        self.pieces(offset, length).try_for_each(|(mapping, from, length)| zero(mapping, from, length))
    }
}

/// [`Memory::zero`] in one mapping.
fn zero(mapping: &Mapping, start: usize, length: usize) -> io::Result<()> {
    let end = start + length;
    let first = round_up(start, page_size()).min(end);
    let last = (end / page_size() * page_size()).max(first);
    assert!(end <= mapping.length());
    // SAFETY: start ≤ first ≤ last ≤ end ≤ the mapping's length.
    unsafe {
        mapping.at(start).write_bytes(0, first - start);
        mapping.at(last).write_bytes(0, end - last);
    }
    if last > first { mapping.give_back(first, last) } else { Ok(()) }
}

/// A part of a disk of `size` bytes.
fn map(length: usize, size: u64, pages: Pages) -> Result<Mapping> {
    let mapping = Mapping::anonymous(length).map_err(|error| too_much(size, error))?;
    pages.arrange(&mapping, "the disk")?;
    Ok(mapping)
}

fn addressable(size: u64) -> Result<usize> {
    usize::try_from(size).map_err(|error| too_much(size, error))
}

fn too_much(size: u64, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Backend, format!("cannot reserve {size} bytes of memory: {why}"))
        .hint("use a smaller disk, or a sparse file")
}

impl Backend for Memory {
    fn properties(&self) -> Properties {
        in_memory::properties(self.size.load(Relaxed))
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        Self::COPY_MODES.to_vec()
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new() // no other process has this memory
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(MemoryEngine { disk: self }))
    }

    fn resize(&self, from: u64, size: u64) -> Result<()> {
        let (before, after) = (addressable(from)?, addressable(size)?);
        let mapped: usize = self.mappings().map(Mapping::length).sum();
        if after > mapped {
            let more = map(mapped.max(after - mapped), size, self.pages)?;
            let room = self.grown.iter().find(|room| room.get().is_none());
            room.and_then(|room| room.set(more).ok()).ok_or_else(|| too_much(size, "it grew too often"))?;
        }
        if after < before {
            self.size.store(size, Relaxed);
        }
        // Also what is added: a late write may have left something there.
        self.zero(before.min(after), before.abs_diff(after)).map_err(|error| too_much(size, error))?;
        self.size.store(size, Relaxed);
        Ok(())
    }
}

impl Storage for Memory {
    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.contains(offset, data.len() as u64) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut data = data;
        for (mapping, from, length) in self.pieces(to_usize(offset), data.len()) {
            let (here, rest) = data.split_at(length);
            // SAFETY: `length` bytes on both sides; nobody has a reference to the disk's bytes.
            unsafe { mapping.at(from).copy_from_nonoverlapping(here.as_ptr(), length) };
            data = rest;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        if !self.contains(offset, length) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.zero(to_usize(offset), to_usize(length))
    }
}

impl Readable for Memory {
    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if !self.contains(offset, into.len() as u64) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut into = into;
        for (mapping, from, length) in self.pieces(to_usize(offset), into.len()) {
            let (here, rest) = into.split_at_mut(length);
            // SAFETY: as in `store`.
            unsafe { mapping.at(from).copy_to_nonoverlapping(here.as_mut_ptr(), length) };
            into = rest;
        }
        Ok(())
    }
}

struct MemoryEngine {
    disk: Arc<Memory>,
}

impl Engine for MemoryEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if !self.disk.contains(piece.offset, piece.length) {
            return Step::Done(Err(libc::EIO));
        }
        let (offset, length) = (to_usize(piece.offset), to_usize(piece.length));
        match piece.op {
            Op::Read | Op::Write => {
                let mut at = 0;
                for (mapping, from, length) in self.disk.pieces(offset, length) {
                    // SAFETY: what was mapped once stays as long as the disk, which outlives the queue's last enter; nobody
                    // has a reference to its bytes. Another queue may copy from or to the same bytes meanwhile if clients
                    // do not wait for one another: the result is then undefined for them, and no code here depends on it.
                    if let Err(errno) = unsafe { io.move_memory(&piece, at, mapping.at(from), length) } {
                        return Step::Done(Err(errno));
                    }
                    at += length;
                }
            }
            Op::Discard | Op::WriteZeroes => {
                if let Err(error) = self.disk.zero(offset, length) {
                    return Step::Done(Err(error.raw_os_error().unwrap_or(libc::EIO)));
                }
            }
            Op::Flush | Op::Other(_) => {}
        }
        Step::Done(Ok(piece.count()))
    }
}

#[cfg(test)]
impl Memory {
    /// For tests that read while others write.
    pub fn byte(&self, at: u64) -> u8 {
        let (mapping, from, _) = self.pieces(at as usize, 1).next().unwrap();
        // SAFETY: the tests stay within the disk; an atomic, since other threads may write.
        unsafe { std::sync::atomic::AtomicU8::from_ptr(mapping.at(from)) }.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::tests::has;

    fn byte(disk: &Memory, at: usize) -> u8 {
        let (mapping, from, _) = disk.pieces(at, 1).next().unwrap();
        // SAFETY: the tests stay within the disk.
        unsafe { *mapping.at(from) }
    }

    fn resize(disk: &Memory, size: u64) {
        disk.resize(disk.properties().size, size).unwrap();
    }

    #[test]
    fn zeroing_covers_exactly_the_range_whatever_its_alignment() {
        let page = page_size();
        for (offset, length) in
            [(0, page), (512, 512), (512, page), (page - 512, 3 * page), (page, 2 * page), (0, 8 * page)]
        {
            let disk = Memory::new(8 * page as u64).unwrap();
            disk.store(0, &vec![0xa5; 8 * page]).unwrap();
            disk.zero(offset, length).unwrap();
            for at in (0..8 * page).step_by(if cfg!(miri) { 511 } else { 1 }) {
                let zeroed = (offset..offset + length).contains(&at);
                assert_eq!(byte(&disk, at), if zeroed { 0 } else { 0xa5 }, "byte {at} of {offset}+{length}");
            }
        }
    }

    #[test]
    fn a_disk_keeps_its_bytes_while_it_grows_and_shrinks() {
        let disk = Memory::new(5120).unwrap();
        disk.store(0, &[1; 5120]).unwrap();
        resize(&disk, 5632);
        // Across where the parts meet.
        disk.store(4608, &[2; 1024]).unwrap();
        for size in [1 << 20, 3 << 20] {
            resize(&disk, size);
            assert_eq!(byte(&disk, size as usize - 1), 0);
            disk.store(size - 512, &[3; 512]).unwrap();
        }
        assert_eq!(
            (byte(&disk, 4607), byte(&disk, 4608), byte(&disk, 5631), byte(&disk, 5632)),
            (1, 2, 2, 0)
        );
        assert_eq!(byte(&disk, (1 << 20) - 1), 3);
        resize(&disk, 5120);
        assert!(!disk.contains(5120, 512));
        resize(&disk, 1 << 20);
        assert_eq!(
            (byte(&disk, 4607), byte(&disk, 4608), byte(&disk, 5120), byte(&disk, 5631)),
            (1, 2, 0, 0)
        );
    }

    #[test]
    fn a_disk_in_small_pages_has_no_huge_ones() {
        let disk = Memory::new(8 << 20).unwrap().in_small_pages().unwrap();
        let huge = std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
        assert_eq!(has(&disk.first, "nh"), huge);
    }

    #[test]
    fn ranges_beyond_the_disk_are_refused_without_overflow() {
        let disk = Memory::new(4096).unwrap();
        assert!(disk.contains(0, 4096) && disk.contains(4096, 0));
        assert!(!disk.contains(512, 4096) && !disk.contains(u64::MAX, 2));
    }

    #[test]
    fn more_than_can_be_addressed_is_a_backend_error() {
        let Err(error) = Memory::new(1 << 62) else { panic!("reserved 4 EiB") };
        assert_eq!(error.kind, ErrorKind::Backend);
    }
}
