//! The pool of data buffers: one of full size for each tag, or each of a part, in one mapping.

use super::tag_share::TagShare;
use crate::abi;
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::pages::Pages;
use std::sync::Arc;

/// One queue's data buffers. Page-aligned; a page is allocated when it is first touched, unless [`Pages`] say otherwise. A
/// clone refers to the same buffers.
#[derive(Clone)]
pub struct Buffers {
    pool: Arc<Mapping>,
    each: usize,
    stride: usize,
    depth: u16,
    part: TagShare,
    _use: Arc<Use>,
}

/// Buffers at a distance of a multiple of this share the same few sets of a processor's caches: a page more
/// between large ones spreads them.
const SAME_SETS: usize = 32 << 10;

impl Buffers {
    /// Buffers for that part of `depth` tags, each of `each` bytes, rounded up to whole pages.
    pub fn new(part: TagShare, depth: u16, each: u32, pages: Pages) -> Result<Self> {
        let each = abi::round_up(each as usize, abi::page_size());
        let stride = if each < SAME_SETS { each } else { each + abi::page_size() };
        let number = part.count(depth);
        let pool = Mapping::anonymous(stride * usize::from(number)).map_err(|error| {
            Error::system(format!("cannot map {number} buffers of {each} bytes"), &error)
                .hint("use a smaller depth or a smaller largest I/O")
        })?;
        pages.arrange(&pool, "a queue's buffers")?;
        let pool = Arc::new(pool);
        Ok(Self { pool: pool.clone(), each, stride, depth, part, _use: Arc::new(Use(pool)) })
    }

    /// Where the tag's buffer starts. It has to be one of the part's.
    pub fn address(&self, tag: u16) -> *mut u8 {
        assert!(tag < self.depth);
        let Some(place) = self.part.place(tag) else { panic!("tag {tag} is another thread's") };
        self.pool.at(usize::from(place) * self.stride)
    }

    /// The tags that have buffers.
    pub fn tags(&self) -> impl Iterator<Item = u16> + use<> {
        self.part.tags(self.depth)
    }

    /// The whole pool: the buffer of the part's tag `n`, counted from 0, starts at `n` times [`stride`](Self::stride).
    /// Code that reads or writes it must only use the buffers of owned tags.
    pub fn pool(&self) -> Arc<Mapping> {
        self.pool.clone()
    }

    /// The queue's depth.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Bytes from the start of one buffer to that of the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes in each buffer.
    pub fn each(&self) -> usize {
        self.each
    }

    /// The first `length` bytes of the tag's buffer.
    ///
    /// # Safety
    /// While the slice is used, nothing else uses the buffer: neither the driver nor the ring, which do while the tag
    /// is offered or an operation is in flight, nor the owner of a clone.
    pub unsafe fn slice(&mut self, tag: u16, length: usize) -> &mut [u8] {
        assert!(length <= self.each);
        // SAFETY: in bounds by both assertions; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.address(tag), length) }
    }
}

/// That buffers of the pool are in use.
struct Use(Arc<Mapping>);

impl Drop for Use {
    fn drop(&mut self) {
        // Something may keep the pool, such as an object that was not garbage-collected yet: free its memory now.
        if Arc::strong_count(&self.0) > 1 {
            // What fails here goes with the pool.
            let _ = self.0.unlock();
            let _ = self.0.give_back(0, self.0.length());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tag's buffer, which nothing else uses.
    fn slice(buffers: &mut Buffers, tag: u16, length: usize) -> &mut [u8] {
        // SAFETY: there is no driver, no ring and no clone in these tests.
        unsafe { buffers.slice(tag, length) }
    }

    #[test]
    fn every_tag_has_room_for_the_largest_io_and_none_overlap() {
        let each = if cfg!(miri) { 8 << 10 } else { 1 << 20 };
        let mut buffers = Buffers::new(TagShare::WHOLE, 3, each, Pages::default()).unwrap();
        for tag in 0..3 {
            slice(&mut buffers, tag, each as usize).fill(tag as u8 + 1);
        }
        for tag in 0..3 {
            assert!(slice(&mut buffers, tag, each as usize).iter().all(|byte| *byte == tag as u8 + 1));
        }
    }

    #[test]
    fn a_pool_that_outlives_its_queue_takes_no_memory() {
        let mut buffers =
            Buffers::new(TagShare::WHOLE, 2, 64 << 10, Pages { lock: true, ..Pages::default() }).unwrap();
        slice(&mut buffers, 1, 64 << 10).fill(1);
        let pool = buffers.pool();
        drop(buffers);
        // SAFETY: within the pool, which nobody else has any more.
        assert!((0..pool.length()).all(|at| unsafe { pool.at(at).read() } == 0));
    }

    #[test]
    fn a_part_has_buffers_for_its_own_tags() {
        let part = TagShare { index: 1, of: 3 };
        let mut buffers = Buffers::new(part, 8, 4096, Pages::default()).unwrap();
        assert_eq!(buffers.tags().collect::<Vec<_>>(), [1, 4, 7]);
        assert_eq!(buffers.pool().length(), 3 * abi::round_up(4096, abi::page_size()));
        for tag in buffers.tags() {
            slice(&mut buffers, tag, 4096).fill(tag as u8);
        }
        assert!(
            buffers.tags().all(|tag| slice(&mut buffers, tag, 4096).iter().all(|byte| *byte == tag as u8))
        );
    }

    #[test]
    #[should_panic(expected = "another thread's")]
    fn the_buffer_of_anothers_tag_is_never_handed_out() {
        slice(&mut Buffers::new(TagShare { index: 0, of: 2 }, 8, 4096, Pages::default()).unwrap(), 1, 1);
    }

    #[test]
    #[should_panic(expected = "length <= self.each")]
    fn more_than_a_buffer_is_never_handed_out() {
        slice(&mut Buffers::new(TagShare::WHOLE, 1, 4096, Pages::default()).unwrap(), 0, 4097);
    }
}
