//! What a backend gets to serve one request with: the request, its buffer, and operations on its file
//! through the queue's own ring. No pointer leaves this room unchecked.

use super::ring::Ring;
use super::{Buffers, KIND_OPERATION, Op, Request};
use crate::error::Result;
use io_uring::{opcode, squeue, types};

/// A slot of the ring's file table, as the backend ordered its files: 1 is the first.
#[derive(Debug, Clone, Copy)]
pub struct Slot(pub u32);

/// One request being served.
pub struct Io<'q> {
    /// The request.
    pub request: Request,
    pub(super) buffers: &'q mut Buffers,
    pub(super) ring: &'q mut Ring,
    pub(super) operating: &'q mut bool,
    pub(super) operations: &'q mut u32,
}

impl Io<'_> {
    /// The request's data: to be filled by a read, to be taken by a write; empty for anything else.
    pub fn data(&mut self) -> &mut [u8] {
        assert!(!*self.operating, "the ring uses this buffer");
        let what = self.request.what;
        let length = if matches!(what.op, Op::Read | Op::Write) { what.length as usize } else { 0 };
        self.buffers.slice(self.request.ticket.tag, length)
    }

    /// Reads the file at `offset` into the data from byte `from` on.
    pub fn read_file(&mut self, file: Slot, from: usize, offset: u64) -> Result<()> {
        let data = &mut self.data()[from..];
        let entry = opcode::Read::new(types::Fixed(file.0), data.as_mut_ptr(), data.len() as u32)
            .offset(offset)
            .build();
        // SAFETY: the memory is the tag's buffer, which outlives the ring and is not handed out while operating.
        unsafe { self.submit(entry) }
    }

    /// Writes the data from byte `from` on to the file at `offset`; durably, if asked.
    pub fn write_file(&mut self, file: Slot, from: usize, offset: u64, durable: bool) -> Result<()> {
        let data = &self.data()[from..];
        let entry = opcode::Write::new(types::Fixed(file.0), data.as_ptr(), data.len() as u32)
            .offset(offset)
            .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
            .build();
        // SAFETY: as in read_file.
        unsafe { self.submit(entry) }
    }

    /// Makes what was written to the file durable (fdatasync).
    pub fn sync_file(&mut self, file: Slot) -> Result<()> {
        let entry = opcode::Fsync::new(types::Fixed(file.0)).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: points to no memory.
        unsafe { self.submit(entry) }
    }

    /// fallocate(2) with `mode` on the request's range of the file.
    pub fn allocate_file(&mut self, file: Slot, mode: i32) -> Result<()> {
        let what = self.request.what;
        let entry =
            opcode::Fallocate::new(types::Fixed(file.0), what.length).offset(what.offset).mode(mode).build();
        // SAFETY: points to no memory.
        unsafe { self.submit(entry) }
    }

    /// # Safety
    /// As [`Ring::push`].
    unsafe fn submit(&mut self, entry: squeue::Entry) -> Result<()> {
        assert!(!*self.operating, "one operation a request at a time");
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(&entry.user_data(KIND_OPERATION | u64::from(self.request.ticket.tag)))? };
        *self.operating = true;
        *self.operations += 1;
        Ok(())
    }
}
