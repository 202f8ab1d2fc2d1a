//! Buffers that the kernel takes one by one and fills: here, with lists of tags.

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::queue::ring::Ring;
use io_uring::types::BufRingEntry;
use std::sync::atomic::{AtomicU16, Ordering};

/// The queue's only group of them.
pub const GROUP: u16 = 0;

/// See the [module](self).
pub struct Provided {
    /// Shared with the kernel: the table of buffers, of at least a page, and then the buffers.
    memory: Mapping,
    entries: u16,
    each: usize,
    /// Where the first buffer begins.
    start: usize,
    tail: u16,
}

impl Provided {
    /// `entries` buffers, a power of two, of `each` bytes.
    pub fn new(entries: u16, each: usize) -> Result<Self> {
        assert!(entries.is_power_of_two());
        let start =
            crate::abi::round_up(usize::from(entries) * size_of::<BufRingEntry>(), crate::abi::page_size());
        let memory = Mapping::anonymous(start + usize::from(entries) * each)
            .map_err(|error| Error::system("cannot map a queue's lists", &error))?;
        Ok(Self { memory, entries, each, start, tail: 0 })
    }

    /// Gives the ring all of them. It has to end before this does.
    pub fn register(&mut self, ring: &Ring) -> Result<()> {
        // SAFETY: the mapping begins with the table, at a page, and outlives the ring.
        unsafe { ring.provide(self.memory.base().as_ptr() as u64, self.entries, GROUP)? };
        (0..self.entries).for_each(|number| self.give_back(number));
        Ok(())
    }

    /// The first `count` tags in a buffer that the kernel filled.
    pub fn tags(&self, number: u16, count: usize) -> impl Iterator<Item = u16> + '_ {
        assert!(number < self.entries && count * size_of::<u16>() <= self.each);
        let base = self.memory.at(self.start + usize::from(number) * self.each);
        #[expect(clippy::cast_ptr_alignment, reason = "each list begins at an even address")]
        let base = base.cast::<u16>();
        // SAFETY: in bounds by the assertion. The kernel wrote it before the completion that we have, and writes it
        // again only after it was given back.
        (0..count).map(move |at| unsafe { base.add(at).read() })
    }

    /// The kernel may fill this one again.
    pub fn give_back(&mut self, number: u16) {
        let base = self.memory.base().cast::<BufRingEntry>();
        let at = usize::from(self.tail & (self.entries - 1));
        let address = self.memory.at(self.start + usize::from(number) * self.each) as u64;
        #[expect(clippy::cast_possible_truncation, reason = "two bytes for each of at most 4096 tags")]
        let length = self.each as u32;
        // SAFETY: the table has `entries` entries, and this one is not the kernel's: it has all buffers at most once.
        unsafe {
            let entry = base.add(at).as_mut();
            entry.set_addr(address);
            entry.set_len(length);
            entry.set_bid(number);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the table's first entry, and both sides use it as an atomic number.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release); // the entry is seen with it
    }
}
