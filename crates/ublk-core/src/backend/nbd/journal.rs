//! The writes that the server has answered and that no flush has made durable since: what a server that has lost them is sent
//! again. Bounded.

use super::protocol::{Command, Request};
use std::collections::VecDeque;

/// Bytes that each entry counts for, beside its data.
const ENTRY: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Item {
    command: Command,
    flags: u16,
    offset: u64,
    length: u32,
    data: usize,
}

/// See the [module](self).
pub struct Journal {
    /// A ring of data.
    data: Box<[u8]>,
    first_byte: usize,
    bytes: usize,
    items: VecDeque<Item>,
    /// The number of the first item.
    first: u64,
    /// Bytes that items count for, and that writes which are not answered are going to.
    charged: usize,
    reserved: usize,
}

impl Journal {
    /// For `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            data: vec![0; limit].into(), // not touched before it is used
            first_byte: 0,
            bytes: 0,
            items: VecDeque::new(),
            first: 0,
            charged: 0,
            reserved: 0,
        }
    }

    /// Bytes: the longest write that fits.
    pub fn longest(&self) -> usize {
        self.data.len().saturating_sub(ENTRY)
    }

    /// Bytes: how much of its room is taken.
    pub fn bytes(&self) -> u64 {
        self.charged as u64
    }

    /// How many writes it keeps.
    pub fn writes(&self) -> u64 {
        self.items.len() as u64
    }

    /// Keeps room for a write with that much data. `false`: there is none before the next flush.
    pub fn reserve(&mut self, data: usize) -> bool {
        let fits = self.charged + self.reserved + data + ENTRY <= self.data.len();
        self.reserved += if fits { data + ENTRY } else { 0 };
        fits
    }

    /// Gives up room that was kept.
    pub fn release(&mut self, data: usize) {
        self.reserved -= data + ENTRY;
    }

    /// A write was answered, for which room was kept. `fill` gets its data's place, in two parts.
    pub fn push(&mut self, what: &Request, data: usize, fill: impl FnOnce(&mut [u8], &mut [u8])) {
        self.release(data);
        self.charged += data + ENTRY;
        let Request { command, flags, offset, length, .. } = *what;
        self.items.push_back(Item { command, flags, offset, length, data });
        let at = (self.first_byte + self.bytes) % self.data.len().max(1);
        self.bytes += data;
        let until_end = (self.data.len() - at).min(data);
        let (before, after) = self.data.split_at_mut(at);
        fill(&mut after[..until_end], &mut before[..data - until_end]);
    }

    /// The number that the next item gets.
    pub fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    /// What was answered before that number is durable.
    pub fn forget(&mut self, before: u64) {
        while self.first < before {
            let Some(item) = self.items.pop_front() else { return };
            self.first += 1;
            self.charged -= item.data + ENTRY;
            self.bytes -= item.data;
            self.first_byte = (self.first_byte + item.data) % self.data.len().max(1);
        }
    }

    /// Whether more than half of the room is taken by writes that a flush would free.
    pub fn wants_flush(&self) -> bool {
        self.charged > self.data.len() / 2
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All writes, in the order in which they were answered.
    pub fn items(&self) -> impl Iterator<Item = (Request, [&[u8]; 2])> {
        let mut at = self.first_byte;
        self.items.iter().zip(self.first..).map(move |(item, number)| {
            let Item { command, flags, offset, length, data } = *item;
            let until_end = (self.data.len() - at).min(data);
            let parts = [&self.data[at..at + until_end], &self.data[..data - until_end]];
            at = (at + data) % self.data.len().max(1);
            (Request { command, flags, cookie: number, offset, length }, parts)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(offset: u64, length: u32) -> Request {
        Request { command: Command::Write, flags: 0, cookie: 0, offset, length }
    }

    proptest! {
        #[test]
        fn it_has_what_was_answered_and_not_flushed_within_its_bounds(
            steps in prop::collection::vec((0_u8..3, 0_usize..300), 0..80),
        ) {
            let mut journal = Journal::new(1000);
            let (mut model, mut flushed, mut number) = (VecDeque::<(u64, Vec<u8>)>::new(), 0, 0_u64);
            for (step, length) in steps {
                match step {
                    0 => {
                        if !journal.reserve(length) {
                            let used: usize = model.iter().map(|(_, data)| data.len() + ENTRY).sum();
                            prop_assert!(used + length + ENTRY > 1000);
                            continue;
                        }
                        #[expect(clippy::cast_possible_truncation, reason = "any byte will do")]
                        let data = vec![number as u8; length];
                        journal.push(&write(number, u32::try_from(length).unwrap()), length, |one, other| {
                            one.copy_from_slice(&data[..one.len()]);
                            other.copy_from_slice(&data[one.len()..]);
                        });
                        model.push_back((number, data));
                        number += 1;
                    }
                    1 => flushed = journal.next(),
                    _ => {
                        journal.forget(flushed);
                        model.retain(|(number, _)| *number >= flushed);
                    }
                }
                let items = journal.items().map(|(what, data)| (what.offset, data.concat()));
                prop_assert_eq!(items.collect::<VecDeque<_>>(), model.clone());
                prop_assert_eq!(journal.is_empty(), model.is_empty());
            }
        }
    }
}
