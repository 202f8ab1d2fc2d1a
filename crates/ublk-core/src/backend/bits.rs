//! A table of bits in memory, one for each chunk or block of a disk.

use crate::mapping::Mapping;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages that were never written take no memory.
pub struct Bits(Mapping);

impl Bits {
    /// As many bits as fit into `bytes`, all zero.
    pub fn new(bytes: usize) -> io::Result<Self> {
        Mapping::anonymous(bytes).map(Self)
    }

    /// The number of 64-bit words.
    pub fn words(&self) -> usize {
        self.0.length() / 8
    }

    /// In one order with all other threads' changes of bits, and with other operations of that order.
    pub fn has(&self, chunk: u64) -> bool {
        self.word(at(chunk)).load(Ordering::SeqCst) & bit(chunk) != 0
    }

    pub fn has_all(&self, chunks: Range<u64>) -> bool {
        chunks.into_iter().all(|chunk| self.has(chunk))
    }

    pub fn set(&self, chunk: u64) {
        self.word(at(chunk)).fetch_or(bit(chunk), Ordering::SeqCst);
    }

    /// Sets all bits of a range. Words that have them are only read.
    #[inline]
    pub fn set_all(&self, chunks: Range<u64>) {
        let (mut from, end) = (chunks.start, chunks.end);
        while from < end {
            let next = (from / 64 * 64 + 64).min(end);
            let bits = u64::MAX << (from % 64) & u64::MAX >> ((64 - next % 64) % 64);
            let word = self.word(at(from));
            if word.load(Ordering::SeqCst) & bits != bits {
                word.fetch_or(bits, Ordering::SeqCst);
            }
            from = next;
        }
    }

    /// Sets what `other` has, as far as both reach.
    pub fn add(&self, other: &Self) {
        for at in 0..self.words().min(other.words()) {
            let bits = other.word(at).load(Ordering::SeqCst);
            if bits != 0 {
                self.word(at).fetch_or(bits, Ordering::SeqCst);
            }
        }
    }

    pub fn clear(&self, chunk: u64) {
        self.word(at(chunk)).fetch_and(!bit(chunk), Ordering::SeqCst);
    }

    /// The first chunk from `from` on whose bit is set.
    pub fn next(&self, from: u64) -> Option<u64> {
        let first = at(from);
        (first..self.words()).find_map(|at| {
            let mut word = self.word(at).load(Ordering::SeqCst);
            if at == first {
                word &= u64::MAX << (from % 64);
            }
            (word != 0).then(|| at as u64 * 64 + u64::from(word.trailing_zeros()))
        })
    }

    /// The first bit of a range that is set.
    pub fn next_within(&self, chunks: Range<u64>) -> Option<u64> {
        let mut from = chunks.start;
        while from < chunks.end && at(from) < self.words() {
            let word = self.word(at(from)).load(Ordering::SeqCst) & u64::MAX << (from % 64);
            if word != 0 {
                let found = from / 64 * 64 + u64::from(word.trailing_zeros());
                return (found < chunks.end).then_some(found);
            }
            from = (from / 64 + 1) * 64;
        }
        None
    }

    /// How many bits are set.
    pub fn count(&self) -> u64 {
        (0..self.words()).map(|at| u64::from(self.word(at).load(Ordering::SeqCst).count_ones())).sum()
    }

    pub fn word(&self, at: usize) -> &AtomicU64 {
        let at = at.saturating_mul(8);
        assert!(at + 8 <= self.0.length());
        // SAFETY: in bounds by the assertion, aligned since the mapping starts a page; only ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.0.at(at).cast()) }
    }

    /// Whether none of a word's bits is set.
    pub fn is_zero(&self, at: usize) -> bool {
        self.word(at).load(Ordering::SeqCst) == 0
    }

    /// Clears what `other` lacks.
    pub fn keep(&self, other: &Self) {
        for at in 0..self.words() {
            let kept = other.word(at).load(Ordering::SeqCst);
            if self.word(at).load(Ordering::SeqCst) & !kept != 0 {
                self.word(at).fetch_and(kept, Ordering::SeqCst);
            }
        }
    }

    /// Clears all bits from `count` on.
    pub fn truncate(&self, count: u64) {
        for at in at(count)..self.words() {
            let rest = count.saturating_sub(at as u64 * 64);
            let kept = if rest == 0 { 0 } else { u64::MAX >> (64 - rest) };
            if self.word(at).load(Ordering::SeqCst) & !kept != 0 {
                self.word(at).fetch_and(kept, Ordering::SeqCst);
            }
        }
    }

    /// The words of a range, as the bytes of a file.
    pub fn bytes(&self, words: Range<usize>) -> Vec<u8> {
        words.flat_map(|at| self.word(at).load(Ordering::SeqCst).to_ne_bytes()).collect()
    }

    /// Gives words from `from` on the values that [`bytes`](Self::bytes) has returned.
    pub fn restore(&self, from: usize, bytes: &[u8]) {
        for (at, word) in (from..).zip(bytes.chunks_exact(8)) {
            self.word(at).store(word.try_into().map_or(0, u64::from_ne_bytes), Ordering::SeqCst);
        }
    }

    /// Sets words from `from` on, which are zero, from the bytes of a file.
    pub fn fill(&self, from: usize, bytes: &[u8]) {
        for (at, word) in (from..).zip(bytes.chunks_exact(8)) {
            let word = word.try_into().map_or(0, u64::from_ne_bytes);
            if word != 0 {
                self.word(at).store(word, Ordering::SeqCst);
            }
        }
    }
}

/// The word that holds a chunk's bit.
pub fn at(chunk: u64) -> usize {
    usize::try_from(chunk / 64).unwrap_or(usize::MAX)
}

fn bit(chunk: u64) -> u64 {
    1 << (chunk % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_last_bit_is_cleared() {
        for (count, rest) in [(0, 0), (1, 1), (63, 1), (64, 2), (65, 3), (701, 4), (5000, 4)] {
            let bits = Bits::new(4096).unwrap();
            [0, 63, 64, 700].into_iter().for_each(|chunk| bits.set(chunk));
            bits.truncate(count);
            assert_eq!(bits.count(), rest, "{count}");
        }
    }

    #[test]
    fn a_range_sets_its_own_bits_and_no_others() {
        for range in [0..0, 0..1, 5..64, 0..64, 63..65, 64..128, 3..200, 130..131] {
            let bits = Bits::new(4096).unwrap();
            bits.set(300);
            bits.set_all(range.clone());
            let set: Vec<_> = (0..299).filter(|bit| bits.has(*bit)).collect();
            assert_eq!(set, range.clone().collect::<Vec<_>>(), "{range:?}");
            let other = Bits::new(4096).unwrap();
            other.add(&bits);
            assert_eq!((other.count(), other.has(300)), (bits.count(), true));
        }
    }

    #[test]
    fn the_next_bit_is_found_from_anywhere() {
        let bits = Bits::new(4096).unwrap();
        assert_eq!((bits.next(0), bits.count()), (None, 0));
        [0, 63, 64, 700].into_iter().for_each(|chunk| bits.set(chunk));
        let found: Vec<_> = [0, 1, 63, 64, 65, 700, 701].map(|from| bits.next(from)).into();
        assert_eq!(found, [Some(0), Some(63), Some(63), Some(64), Some(700), Some(700), None]);
        assert_eq!((bits.next(1 << 20), bits.count()), (None, 4));
    }
}
