//! What a backend gets to serve one request with: the request, its buffer, and operations on its file
//! through the queue's own ring. No pointer leaves this room unchecked.

use super::data::Data;
use super::ring::Ring;
use super::{CopyMode, KIND_OPERATION, Op, Request};
use crate::error::{Error, Result};
use io_uring::{opcode, squeue, types};

/// A slot of the ring's file table, as the backend ordered its files: 1 is the first.
#[derive(Debug, Clone, Copy)]
pub struct Slot(pub u32);

/// One request being served.
pub struct Io<'q> {
    /// The request.
    pub request: Request,
    pub(super) data: &'q mut Data,
    pub(super) ring: &'q mut Ring,
    pub(super) operating: &'q mut bool,
    pub(super) operations: &'q mut u32,
}

impl Io<'_> {
    /// The request's buffer: to be filled by a read, to be taken by a write; empty for anything else. Not for backends
    /// that serve other than with [`CopyMode::Copy`].
    ///
    /// Fails if the data is in shared memory that was truncated.
    pub fn data(&mut self) -> Result<&mut [u8]> {
        assert!(!*self.operating, "the ring uses this buffer");
        if self.request.what.shared.is_some() {
            self.data.borrow_shared(&self.request).map_err(|error| unmoved(&error))?;
        }
        let (tag, length) = (self.request.ticket.tag, self.length());
        // SAFETY: the tag is owned while this borrows from its queue, by one of the threads that share the buffers; no
        // operation is in flight, by the assertion.
        Ok(unsafe { self.data.buffers.slice(tag, length) })
    }

    /// Bytes of data.
    fn length(&self) -> usize {
        if self.has_data() { self.request.what.length as usize } else { 0 }
    }

    fn has_data(&self) -> bool {
        matches!(self.request.what.op, Op::Read | Op::Write)
    }

    /// Moves `length` bytes between memory of the backend's and the request, from its byte `from` on: into a read, or out
    /// of a write. Now, or with the answer.
    ///
    /// # Safety
    /// `length` bytes at `address` are valid until the queue has entered its ring with the request's answer or is
    /// dropped; they are not part of the queue's buffers, and no reference to them exists.
    #[inline]
    pub unsafe fn move_memory(&mut self, from: usize, address: *mut u8, length: usize) -> Result<()> {
        let (what, tag) = (self.request.what, self.request.ticket.tag);
        let take = what.op == Op::Write;
        if what.shared.is_some() {
            assert!(self.has_data());
            // SAFETY: the caller's promise.
            return unsafe { self.data.move_shared(&self.request, from, address, length) }
                .map_err(|error| unmoved(&error));
        }
        if self.data.copy == CopyMode::User {
            assert!(self.has_data());
            // SAFETY: the caller's promise.
            return unsafe { self.data.put_off(tag, from, address, length, take) }
                .map_err(|error| unmoved(&error));
        }
        let data = self.data()?[from..from + length].as_mut_ptr();
        // SAFETY: `length` bytes on both sides, which are apart: a request's buffer is the queue's own.
        unsafe { copy(data, address, length, take) };
        Ok(())
    }

    /// Answers a read with the content of its buffer, where the driver does not take it from there.
    pub fn move_buffer(&mut self) -> Result<()> {
        if self.data.copy == CopyMode::User && self.has_data() {
            let address = self.data()?.as_mut_ptr();
            // SAFETY: the tag's buffer, with the length of its data. It is copied through the driver's file, not within
            // this process.
            unsafe { self.move_memory(0, address, self.length())? };
        }
        Ok(())
    }

    /// Whether a read finds in its buffer what earlier writes left there.
    pub fn reuses_buffers(&self) -> bool {
        self.data.copy == CopyMode::Copy
    }

    /// Reads the file at `offset` into the data from byte `from` on.
    pub fn read_file(&mut self, file: Slot, from: usize, offset: u64) -> Result<()> {
        let (address, length, slot) = self.place(from)?;
        let file = types::Fixed(file.0);
        let entry = match slot {
            Some(slot) => opcode::ReadFixed::new(file, address, length, slot).offset(offset).build(),
            None => opcode::Read::new(file, address, length).offset(offset).build(),
        };
        // SAFETY: the memory is the tag's buffer, which outlives the ring and is not handed out while operating, or the
        // request's own, or shared, which stays while the tag is owned.
        unsafe { self.submit(entry) }
    }

    /// Writes the data from byte `from` on to the file at `offset`; durably, if asked.
    pub fn write_file(&mut self, file: Slot, from: usize, offset: u64, durable: bool) -> Result<()> {
        let (address, length, slot) = self.place(from)?;
        let (file, flags) = (types::Fixed(file.0), if durable { libc::RWF_DSYNC } else { 0 });
        let entry = match slot {
            Some(slot) => {
                opcode::WriteFixed::new(file, address, length, slot).offset(offset).rw_flags(flags).build()
            }
            None => opcode::Write::new(file, address, length).offset(offset).rw_flags(flags).build(),
        };
        // SAFETY: as in read_file.
        unsafe { self.submit(entry) }
    }

    /// Where the data from byte `from` on is for an operation in the ring: an address, or one within a slot of the ring's
    /// buffer table, which begins at 0.
    fn place(&mut self, from: usize) -> Result<(*mut u8, u32, Option<u16>)> {
        let (tag, left) = (self.request.ticket.tag, self.length() - from);
        if self.data.copy != CopyMode::Zero
            && let Some(shared) = self.data.shared_address(&self.request)?
        {
            // SAFETY: within the request's data. Only the kernel uses the address.
            return Ok((unsafe { shared.add(from) }, left as u32, None));
        }
        if self.data.copy != CopyMode::Zero {
            return Ok((self.data()?[from..].as_mut_ptr(), left as u32, None));
        }
        if self.request.what.by_hand && !self.data.registered(tag) {
            self.data.register(self.ring, tag)?;
        }
        Ok((std::ptr::without_provenance_mut(from), left as u32, Some(tag)))
    }

    /// Writes memory of the backend to the file at `offset`.
    ///
    /// # Safety
    /// `length` bytes at `address` are valid and not written to until the operation has completed, even if the engine
    /// and its queue are dropped before.
    pub unsafe fn write_memory(
        &mut self,
        file: Slot,
        address: *const u8,
        length: u32,
        offset: u64,
    ) -> Result<()> {
        let entry = opcode::Write::new(types::Fixed(file.0), address, length).offset(offset).build();
        // SAFETY: the caller's promise.
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

fn unmoved(error: &std::io::Error) -> Error {
    Error::system("cannot move a request's data", error)
}

/// Between the request's data and memory of the backend's: `take`, out of the request.
///
/// # Safety
/// Both are `length` bytes, and apart.
unsafe fn copy(data: *mut u8, memory: *mut u8, length: usize, take: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if take {
            memory.copy_from_nonoverlapping(data, length);
        } else {
            data.copy_from_nonoverlapping(memory, length);
        }
    }
}
