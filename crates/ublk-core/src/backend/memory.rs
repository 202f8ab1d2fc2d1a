//! A disk in memory: sparse until written; discard and write-zeroes give memory back.

use super::{Backend, Discard, Engine, Properties, Site, Step, Storage};
use crate::abi::{page_size, round_up};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::queue::{Io, Op};
use std::io;

/// The disk's bytes: one anonymous mapping. A page exists from its first write until it is discarded.
///
/// Queues that touch the same bytes at the same time do so because the disk's clients race for a sector, and
/// those are promised nothing. Bytes are only ever copied, through raw pointers, never borrowed.
pub struct Memory {
    bytes: Mapping,
}

impl Memory {
    /// An empty disk of `size` bytes.
    pub fn new(size: u64) -> Result<Self> {
        let too_much = |why: String| {
            Error::new(ErrorKind::Backend, format!("cannot reserve {size} bytes of memory: {why}"))
                .hint("use a smaller disk, or a sparse file")
        };
        let length = usize::try_from(size).map_err(|error| too_much(error.to_string()))?;
        if length == 0 {
            return Err(Error::invalid("the size is 0").hint("a disk has at least one block"));
        }
        Mapping::anonymous(length).map(|bytes| Self { bytes }).map_err(|error| too_much(error.to_string()))
    }

    /// Whether the range lies on the disk: the driver sees to it, and memory safety does not rest on that.
    fn contains(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.bytes.length() as u64)
    }

    /// Makes a range read back as zeroes; whole pages of it go back to the system.
    fn zero(&self, offset: usize, length: usize) -> std::io::Result<()> {
        let (start, end) = (offset, offset + length);
        let first = round_up(start, page_size()).min(end);
        let last = (end / page_size() * page_size()).max(first);
        assert!(end <= self.bytes.length());
        // SAFETY: start ≤ first ≤ last ≤ end ≤ the mapping's length.
        unsafe {
            self.bytes.at(start).write_bytes(0, first - start);
            self.bytes.at(last).write_bytes(0, end - last);
        }
        if last > first { self.bytes.give_back(first, last) } else { Ok(()) }
    }
}

impl Backend for Memory {
    fn properties(&self) -> Properties {
        // One call frees at most this: a queue must not be away for long.
        let discard =
            Some(Discard { granularity: page_size() as u32, max: 1 << 28, max_write_zeroes: 1 << 28 });
        Properties { size: self.bytes.length() as u64, block_size: 512, write_cache: false, discard }
    }

    fn engine(&self, _site: &Site) -> Result<Box<dyn Engine + '_>> {
        Ok(Box::new(MemoryEngine { disk: self }))
    }
}

impl Storage for Memory {
    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.contains(offset, data.len() as u64) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        // SAFETY: data.len() bytes on both sides (checked above); nobody has a reference to the disk's bytes.
        unsafe { self.bytes.at(offset as usize).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryEngine<'a> {
    disk: &'a Memory,
}

impl Engine for MemoryEngine<'_> {
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step> {
        let what = io.request.what;
        if !self.disk.contains(what.offset, what.length) {
            return Ok(Step::Done(Err(libc::EIO)));
        }
        let (offset, length) = (what.offset as usize, what.length as usize);
        let disk = self.disk.bytes.at(offset);
        match what.op {
            // SAFETY: `length` bytes on both sides (checked above), and a request's buffer never lies in the disk.
            Op::Read => unsafe { io.data().as_mut_ptr().copy_from_nonoverlapping(disk, length) },
            // SAFETY: as above.
            Op::Write => unsafe { disk.copy_from_nonoverlapping(io.data().as_ptr(), length) },
            Op::Discard | Op::WriteZeroes => {
                if let Err(error) = self.disk.zero(offset, length) {
                    return Ok(Step::Done(Err(error.raw_os_error().unwrap_or(libc::EIO))));
                }
            }
            Op::Flush | Op::Other(_) => {}
        }
        Ok(Step::Done(Ok(length as u32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(disk: &Memory, at: usize) -> u8 {
        // SAFETY: the tests stay within the disk.
        unsafe { *disk.bytes.at(at) }
    }

    #[test]
    fn zeroing_covers_exactly_the_range_whatever_its_alignment() {
        let page = page_size();
        for (offset, length) in
            [(0, page), (512, 512), (512, page), (page - 512, 3 * page), (page, 2 * page), (0, 8 * page)]
        {
            let disk = Memory::new(8 * page as u64).unwrap();
            // SAFETY: the whole disk.
            unsafe { disk.bytes.at(0).write_bytes(0xa5, 8 * page) };
            disk.zero(offset, length).unwrap();
            for at in 0..8 * page {
                let zeroed = (offset..offset + length).contains(&at);
                assert_eq!(byte(&disk, at), if zeroed { 0 } else { 0xa5 }, "byte {at} of {offset}+{length}");
            }
        }
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
