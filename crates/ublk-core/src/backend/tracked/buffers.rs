//! Memory for what is copied. Its output gives it back, so that the reader of the disk, which requests wait for, neither waits
//! for the allocator while a thread that runs behind others is in it, nor takes new pages from the kernel.

use std::sync::mpsc::{Receiver, Sender, channel};

/// Sizes of memory: powers of two from here on.
const LEAST: usize = 4096;
const SIZES: usize = 5;
/// How much of each size is kept, in bytes.
const KEPT: usize = 16 << 20;

/// See the [module](self).
pub struct Buffers {
    free: [Vec<Vec<u8>>; SIZES],
    returned: Receiver<Vec<u8>>,
}

impl Buffers {
    /// None yet, and where to give them back.
    pub fn new() -> (Self, Sender<Vec<u8>>) {
        let (back, returned) = channel();
        (Self { free: Default::default(), returned }, back)
    }

    fn size(capacity: usize) -> usize {
        (capacity / LEAST).next_power_of_two().trailing_zeros() as usize
    }

    /// An empty one with room for that many bytes.
    pub fn get(&mut self, bytes: usize) -> Vec<u8> {
        while let Ok(mut buffer) = self.returned.try_recv() {
            let capacity = buffer.capacity();
            if let Some(free) = self.free.get_mut(Self::size(capacity))
                && free.len() < KEPT / capacity.max(LEAST)
            {
                buffer.clear();
                free.push(buffer);
            }
        }
        let capacity = bytes.max(LEAST).next_power_of_two();
        let free = self.free.get_mut(Self::size(capacity)).and_then(Vec::pop);
        free.unwrap_or_else(|| Vec::with_capacity(capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_used_again_for_the_same_size_alone() {
        let (mut buffers, back) = Buffers::new();
        let mut small = buffers.get(4096);
        small.extend_from_slice(&[1; 4096]);
        let (at, large) = (small.as_ptr(), buffers.get(65536));
        let wide = large.as_ptr();
        back.send(small).unwrap();
        back.send(large).unwrap();
        let taken = [8192, 512, 40_000, 4096].map(|bytes| buffers.get(bytes));
        let [other, again, also_again, in_use] = &taken;
        assert!(again.is_empty() && again.as_ptr() == at && again.capacity() == 4096);
        assert_eq!(also_again.as_ptr(), wide);
        assert!(other.as_ptr() != at && in_use.as_ptr() != at);
    }
}
