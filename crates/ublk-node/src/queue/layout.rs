//! The memory that a queue shares with its JavaScript: described once, here. JavaScript asks for the offsets.

use crate::number::number;
use napi_derive::napi;
use std::ptr::NonNull;
use std::sync::Arc;
use ublk_core::Mapping;
use ublk_core::error::{Error, Result};
use ublk_core::queue::Buffers;

/// Byte offsets of the arrays in a queue's shared memory; each has `depth` elements.
///
/// The batch's arrays hold the requests that the last `next` or `poll` found, by position. The answers' arrays
/// take results to be given with `settle`.
#[napi(object)]
#[derive(Debug, Clone, Copy)]
pub struct SharedLayout {
    /// Elements in each array.
    pub depth: u32,
    /// Batch, `Float64Array`: where on the disk, in bytes.
    pub offset: u32,
    /// Batch, `Float64Array`: how much, in bytes.
    pub length: u32,
    /// Batch, `Int32Array`: bytes done, or a negative error number. Set to success beforehand.
    pub result: u32,
    /// Batch, `Uint32Array`: which of the tag's requests it is.
    pub generation: u32,
    /// Batch, `Uint16Array`: the tag, which is the number of its data buffer.
    pub tag: u32,
    /// Batch, `Uint8Array`: the operation; see `wire.rs`.
    pub op: u32,
    /// Batch, `Uint8Array`: the flags; see `wire.rs`.
    pub flags: u32,
    /// Answers, `Int32Array`: as `result`.
    pub answer_result: u32,
    /// Answers, `Uint32Array`: the request's generation.
    pub answer_generation: u32,
    /// Answers, `Uint16Array`: the request's tag.
    pub answer_tag: u32,
    /// Bytes in all.
    pub size: u32,
    /// Bytes in each data buffer.
    pub buffer_size: f64,
    /// Bytes from the start of one data buffer to that of the next.
    pub buffer_stride: f64,
}

impl SharedLayout {
    fn new(depth: u16, buffer_size: usize, buffer_stride: usize) -> Self {
        let mut size = 0;
        // Widest first: every array is aligned to its elements.
        let mut array = |width: u32| {
            let at = size;
            size += width * u32::from(depth);
            at
        };
        let (offset, length) = (array(8), array(8));
        let (result, generation, answer_result, answer_generation) = (array(4), array(4), array(4), array(4));
        let (tag, answer_tag) = (array(2), array(2));
        let (op, flags) = (array(1), array(1));
        Self {
            depth: depth.into(),
            offset,
            length,
            result,
            generation,
            tag,
            op,
            flags,
            answer_result,
            answer_generation,
            answer_tag,
            size,
            buffer_size: number(buffer_size as u64),
            buffer_stride: number(buffer_stride as u64),
        }
    }
}

/// A request as JavaScript sees it.
pub struct Entry {
    pub offset: f64,
    pub length: f64,
    pub result: i32,
    pub generation: u32,
    pub tag: u16,
    pub op: u8,
    pub flags: u8,
}

/// The shared memory itself. Written by one thread: the one that serves the queue, in Rust or in JavaScript.
pub struct QueueMemory {
    pub layout: SharedLayout,
    memory: Arc<Mapping>,
}

impl QueueMemory {
    pub fn new(buffers: &Buffers) -> Result<Self> {
        let layout = SharedLayout::new(buffers.depth(), buffers.each(), buffers.stride());
        let memory = Mapping::anonymous(layout.size as usize)
            .map_err(|error| Error::system("cannot map memory to share with JavaScript", &error))?;
        Ok(Self { layout, memory: Arc::new(memory) })
    }

    pub fn memory(&self) -> Arc<Mapping> {
        self.memory.clone()
    }

    /// Describes the request at `at` in the batch.
    pub fn put(&self, at: usize, entry: &Entry) {
        let layout = &self.layout;
        self.store(layout.offset, at, entry.offset);
        self.store(layout.length, at, entry.length);
        self.store(layout.result, at, entry.result);
        self.store(layout.generation, at, entry.generation);
        self.store(layout.tag, at, entry.tag);
        self.store(layout.op, at, entry.op);
        self.store(layout.flags, at, entry.flags);
    }

    /// The batch's result at `at`.
    pub fn result(&self, at: usize) -> i32 {
        self.load(self.layout.result, at)
    }

    /// The answer at `at`: tag, generation and result.
    pub fn answer(&self, at: usize) -> (u16, u32, i32) {
        let layout = &self.layout;
        (
            self.load(layout.answer_tag, at),
            self.load(layout.answer_generation, at),
            self.load(layout.answer_result, at),
        )
    }

    fn store<T: Copy>(&self, array: u32, at: usize, value: T) {
        // SAFETY: see element().
        unsafe { self.element::<T>(array, at).write(value) };
    }

    fn load<T: Copy>(&self, array: u32, at: usize) -> T {
        // SAFETY: see element(); every bit pattern is a number.
        unsafe { self.element::<T>(array, at).read() }
    }

    /// In bounds by the assertion, and aligned by the layout's order. Only this thread touches it.
    fn element<T>(&self, array: u32, at: usize) -> NonNull<T> {
        assert!(at < self.layout.depth as usize);
        let address = self.memory.at(array as usize + at * size_of::<T>());
        debug_assert!(address.cast::<T>().is_aligned());
        NonNull::new(address.cast()).unwrap_or(NonNull::dangling())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_aligned_and_do_not_overlap_at_any_depth() {
        for depth in [1, 2, 3, 7, 128, 4095, 4096] {
            let layout = SharedLayout::new(depth, 4096, 4096);
            let mut arrays = [
                (layout.offset, 8),
                (layout.length, 8),
                (layout.result, 4),
                (layout.generation, 4),
                (layout.answer_result, 4),
                (layout.answer_generation, 4),
                (layout.tag, 2),
                (layout.answer_tag, 2),
                (layout.op, 1),
                (layout.flags, 1),
            ];
            arrays.sort_unstable();
            let mut end = 0;
            for (at, width) in arrays {
                assert_eq!((at, at % width), (end, 0));
                end = at + width * u32::from(depth);
            }
            assert_eq!(end, layout.size);
        }
    }
}
