//! What an engine uses to serve a request or a part of one: its data, and operations on files through the queue's ring. Every
//! pointer that leaves this module is checked.

mod bounced;
mod held;

pub use held::Held;

use bounced::move_at;

use super::calls::{Call, Calls, Hop};
use super::completer::{Completer, Completion, Key, Token};
use super::data::Data;
use super::lease::Lease;
use super::line::{LineId, Lines, Stretch};
use super::ring::Ring;
use super::{CopyMode, Errno, Op, Outcome, Piece, Request, user_data};
use crate::error::Error;
use crate::number::to_usize;
use crate::request::request_length;
use io_uring::{opcode, squeue, types};
use std::io;
use std::os::fd::BorrowedFd;

/// A slot of the ring's file table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub(crate) u32);

impl Slot {
    /// It, and those behind it.
    pub(crate) fn and_more(self) -> impl Iterator<Item = Self> {
        (self.0..).map(Self)
    }
}

/// The outcome of a request, or of a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is finished.
    Done(Outcome),
    /// A [`Completion`] will continue it.
    Pending,
}

/// One request being served.
pub struct Io<'q> {
    /// The request, as it came from the driver. An engine serves a [`Piece`] of it.
    pub request: Request,
    /// The call that is served.
    call: Call,
    data: &'q mut Data,
    ring: &'q mut Ring,
    calls: &'q mut Calls,
    lines: &'q mut Lines,
    complaint: &'q mut Option<String>,
}

impl<'q> Io<'q> {
    /// The means to serve a request, from the parts of its queue.
    #[inline]
    pub(super) fn new(
        request: Request,
        data: &'q mut Data,
        ring: &'q mut Ring,
        calls: &'q mut Calls,
        lines: &'q mut Lines,
        complaint: &'q mut Option<String>,
    ) -> Self {
        Self { request, call: request.ticket.tag.into(), data, ring, calls, lines, complaint }
    }

    /// The number of the call that is served: below that of any other call at the same time. For state that an engine
    /// keeps of it.
    #[inline]
    pub fn call(&self) -> usize {
        self.call as usize
    }

    /// Reports to the device's owner in one line why the request fails.
    pub fn report(&mut self, message: impl Into<String>) {
        self.complaint.get_or_insert_with(|| message.into());
    }

    /// Fails the request, and reports why.
    fn failed(&mut self, error: &Error) -> Errno {
        self.report(error.to_string());
        error.errno.unwrap_or(libc::EIO)
    }

    /// The piece's data: a read fills it, a write stores it; empty for other operations. Only with [`CopyMode::Copy`].
    ///
    /// Fails if the data is in shared memory that was truncated.
    ///
    /// # Panics
    /// While an operation of the request is in the ring.
    pub fn data(&mut self, piece: &Piece) -> Result<&mut [u8], Errno> {
        let tag = self.request.ticket.tag;
        assert!(self.calls.operations(tag) == 0, "the ring uses this buffer");
        let (at, length) = self.range(piece);
        self.borrow()?;
        // SAFETY: the tag is owned while this borrows from its queue, by one of the threads that share the buffers; no
        // operation is in flight, by the assertion.
        Ok(unsafe { &mut self.data.buffers.slice(tag, at + length)[at..] })
    }

    /// Rules of a disk with faults were applied to the request: a bit for each. For traces.
    pub(crate) fn faulted(&mut self, rules: u32) {
        self.calls.faulted(self.request.ticket.tag, rules);
    }

    /// Copies the data to the tag's buffer, if it is in shared memory. With [`CopyMode::Copy`].
    pub(crate) fn borrow(&mut self) -> Result<(), Errno> {
        if self.request.what.shared.is_none() {
            return Ok(());
        }
        let tag = self.request.ticket.tag;
        if self.calls.operations(tag) > 0 && self.data.in_place(tag) {
            self.report("its data is in shared memory, where the ring works on a part of it");
            return Err(libc::EIO);
        }
        let borrowed = self.data.borrow_shared(&self.request);
        borrowed.map_err(|error| self.unmoved(&error))
    }

    fn unmoved(&mut self, error: &io::Error) -> Errno {
        self.failed(&Error::system("cannot move a request's data", error))
    }

    /// Where the piece's data is in the request's.
    #[inline]
    fn range(&self, piece: &Piece) -> (usize, usize) {
        let (length, all) = (piece.data_length(), self.request.what.piece().data_length());
        assert!(piece.at <= all && length <= all - piece.at, "a piece is part of its request");
        assert!(piece.scatter.is_none(), "its data is in several places");
        (piece.at, length)
    }

    /// The piece's data in the tag's buffer, for copies.
    #[inline]
    fn buffer(&self, piece: &Piece) -> (*mut u8, usize) {
        let (at, length) = self.range(piece);
        assert!(at + length <= self.data.buffers.each());
        // SAFETY: within the tag's buffer, by the assertion.
        (unsafe { self.data.buffers.address(self.request.ticket.tag).add(at) }, length)
    }

    /// Copies `length` bytes between memory of the backend and the piece, from its byte `from` on: into a read, or out of a
    /// write. Now, or with the answer.
    ///
    /// # Safety
    /// `length` bytes at `address` are valid until the queue has entered its ring with the request's answer or is
    /// dropped; they are not part of the queue's buffers, and no reference to them exists.
    #[inline]
    pub unsafe fn move_memory(
        &mut self,
        piece: &Piece,
        from: usize,
        address: *mut u8,
        length: usize,
    ) -> Result<(), Errno> {
        let piece = piece.part(from as u64, length as u64);
        let (at, length) = self.range(&piece);
        assert!(piece.op == self.request.what.op, "data goes the way of its request");
        if self.request.what.shared.is_some() {
            // SAFETY: the caller's promise: the copy is made before the queue enters its ring.
            match unsafe { self.data.move_shared(&self.request, at, address, length) } {
                Ok(false) => {} // it is in the buffer
                moved => return moved.map(drop).map_err(|error| self.unmoved(&error)),
            }
        } else if self.data.copy == CopyMode::User {
            let take = piece.op == Op::Write;
            // SAFETY: the caller's promise.
            let moved = unsafe { self.data.put_off(self.request.ticket.tag, at, address, length, take) };
            return moved.map_err(|error| self.unmoved(&error));
        }
        let (data, length) = self.buffer(&piece);
        // SAFETY: `length` bytes on both sides, which are apart: a request's buffer is the queue's own. Operations of
        // other pieces may be in the ring, which no reference sees here.
        unsafe {
            if piece.op == Op::Write {
                address.copy_from_nonoverlapping(data, length);
            } else {
                data.copy_from_nonoverlapping(address, length);
            }
        }
        Ok(())
    }

    /// Makes the copies that [`move_memory`](Self::move_memory) left for the answer, and reports whether they succeed: for a
    /// layer that has to know what the memory holds before the request is answered.
    pub fn finish_moves(&mut self) -> Result<(), Errno> {
        self.finish_shared_moves()?;
        self.data.move_now(self.request.ticket.tag).map_err(|error| self.unmoved(&error))
    }

    /// The same for a request in shared memory only. The copies of other requests hardly ever fail.
    pub fn finish_shared_moves(&mut self) -> Result<(), Errno> {
        if self.request.what.shared.is_none() {
            return Ok(());
        }
        self.data.copy_shared_of(self.request.ticket.tag).map_err(|error| self.unmoved(&error))
    }

    /// Fills the data of a piece of a read with zeroes, also while the ring works on other pieces. Not with [`CopyMode::Zero`].
    pub fn zero(&mut self, piece: &Piece) -> Result<(), Errno> {
        let (data, length) = self.buffer(piece);
        // SAFETY: the tag's buffer, which no reference sees.
        unsafe { data.write_bytes(0, length) };
        if self.request.what.shared.is_some() {
            // It goes to the shared memory alone, where the ring may be working on what is beside it.
            // SAFETY: the tag's buffer stays as it is until the request is answered.
            let moved = unsafe { self.data.move_shared(&self.request, piece.at, data, length) };
            return moved.map(drop).map_err(|error| self.unmoved(&error));
        }
        self.move_buffer(piece)
    }

    /// Changes one bit of the piece's data. With [`CopyMode::Copy`].
    pub(crate) fn flip(&mut self, piece: &Piece, bit: u64) -> Result<(), Errno> {
        assert!(self.data.copy == CopyMode::Copy, "the data is elsewhere");
        self.borrow()?;
        let (data, length) = self.buffer(piece);
        let at = to_usize(bit / 8);
        assert!(at < length, "the bit is the piece's");
        // SAFETY: within the tag's buffer, by the assertion, which no reference sees.
        unsafe { *data.add(at) ^= 1 << (bit % 8) };
        Ok(())
    }

    /// Answers a read with the content of its buffer, where the driver does not take it from there.
    pub fn move_buffer(&mut self, piece: &Piece) -> Result<(), Errno> {
        if self.data.copy != CopyMode::User || self.request.what.shared.is_some() || piece.op != Op::Read {
            return Ok(());
        }
        let (data, length) = self.buffer(piece);
        // SAFETY: the tag's buffer. It is copied through the driver's file, not within this process.
        let moved = unsafe { self.data.put_off(self.request.ticket.tag, piece.at, data, length, false) };
        moved.map_err(|error| self.unmoved(&error))
    }

    /// Reads the piece from a file, or writes it there, at its own offset and at once: for files in memory, whose system calls
    /// never wait for a device. With [`CopyMode::Copy`].
    pub fn move_file(&mut self, file: BorrowedFd<'_>, piece: &Piece) -> Result<(), Errno> {
        self.borrow()?;
        let (data, length) = self.buffer(piece);
        // SAFETY: `length` bytes at `data` are the tag's buffer, which no reference sees.
        unsafe { move_at(file, piece.op, data, length, piece.offset) }
    }

    /// Whether a read finds in its buffer what earlier writes left there.
    pub fn reuses_buffers(&self) -> bool {
        self.data.copy == CopyMode::Copy
    }

    /// Whether operations on files may have pieces whose data is scattered.
    #[inline]
    pub(crate) fn scatters(&self) -> bool {
        self.data.vectors.any()
    }

    /// Reads the file into the piece's data, at the piece's offset.
    #[inline]
    pub fn read_file(&mut self, file: Slot, piece: &Piece, key: Key) -> Step {
        if piece.scatter.is_some() {
            return self.move_scattered(file, piece, 0, key);
        }
        let (address, length, slot) = match self.place(piece) {
            Ok(place) => place,
            Err(errno) => return Step::Done(Err(errno)),
        };
        let file = types::Fixed(file.0);
        let entry = match slot {
            Some(slot) => opcode::ReadFixed::new(file, address, length, slot).offset(piece.offset).build(),
            None => opcode::Read::new(file, address, length).offset(piece.offset).build(),
        };
        // SAFETY: the memory is the tag's buffer, which outlives the ring and of which no reference exists while
        // operations are in the ring, or the request's own, or shared, which stays while the tag is owned.
        unsafe { self.submit(entry, key) }
    }

    /// Writes the piece's data to the file, at the piece's offset; durably, if asked.
    #[inline]
    pub fn write_file(&mut self, file: Slot, piece: &Piece, durable: bool, key: Key) -> Step {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        if piece.scatter.is_some() {
            return self.move_scattered(file, piece, flags, key);
        }
        let (address, length, slot) = match self.place(piece) {
            Ok(place) => place,
            Err(errno) => return Step::Done(Err(errno)),
        };
        let file = types::Fixed(file.0);
        let entry = match slot {
            Some(slot) => opcode::WriteFixed::new(file, address, length, slot)
                .offset(piece.offset)
                .rw_flags(flags)
                .build(),
            None => opcode::Write::new(file, address, length).offset(piece.offset).rw_flags(flags).build(),
        };
        // SAFETY: as in read_file.
        unsafe { self.submit(entry, key) }
    }

    /// Reads or writes a piece whose data is scattered: of the first places, if the tag has no room for all of them.
    fn move_scattered(&mut self, file: Slot, piece: &Piece, flags: i32, key: Key) -> Step {
        let what = self.request.what.piece();
        assert!(piece.op == what.op, "data goes the way of its request");
        let (base, all, slot) = match self.place(&what) {
            Ok(place) => place,
            Err(errno) => return Step::Done(Err(errno)),
        };
        let tag = self.request.ticket.tag;
        if self.calls.operations(tag) == 0 {
            self.data.vectors.free(tag);
        }
        let places = piece.segments().map(|segment| {
            let length = segment.data_length();
            let fits = segment.at <= all as usize && length <= all as usize - segment.at;
            assert!(fits, "a piece is part of its request");
            (base.wrapping_add(segment.at), length)
        });
        let (vectors, count) = self.data.vectors.store(tag, places);
        if count == 0 {
            let first = piece.segments().next().unwrap_or(*piece);
            return match piece.op {
                Op::Write => self.write_file(file, &first, flags != 0, key),
                _ => self.read_file(file, &first, key),
            };
        }
        let (file, offset) = (types::Fixed(file.0), piece.offset);
        let entry = match (piece.op, slot) {
            (Op::Write, Some(slot)) => {
                opcode::WritevFixed::new(file, vectors, count, slot).offset(offset).rw_flags(flags).build()
            }
            (Op::Write, None) => {
                opcode::Writev::new(file, vectors, count).offset(offset).rw_flags(flags).build()
            }
            (_, Some(slot)) => opcode::ReadvFixed::new(file, vectors, count, slot).offset(offset).build(),
            (_, None) => opcode::Readv::new(file, vectors, count).offset(offset).build(),
        };
        // SAFETY: as in read_file; the vectors stay as long as the buffers, and are not changed while operations of the
        // tag are in the ring.
        unsafe { self.submit(entry, key) }
    }

    /// Where the piece's data is for an operation in the ring: an address, or one within a slot of the ring's buffer
    /// table, which begins at 0.
    #[inline]
    fn place(&mut self, piece: &Piece) -> Result<(*mut u8, u32, Option<u16>), Errno> {
        let (at, length) = self.range(piece);
        let (tag, length) = (self.request.ticket.tag, request_length(length));
        if self.data.copy != CopyMode::Zero {
            let shared = match self.request.what.shared {
                None => None,
                Some(_) => match self.data.shared_address(&self.request) {
                    Ok(address) => address,
                    Err(error) => return Err(self.failed(&error)),
                },
            };
            return Ok(match shared {
                // SAFETY: within the request's data. Only the kernel uses the address.
                Some(shared) => (unsafe { shared.add(at) }, length, None),
                None => (self.buffer(piece).0, length, None),
            });
        }
        if self.request.what.by_hand && !self.data.registered(tag) {
            let registered = self.data.register(self.ring, tag);
            registered.map_err(|error| self.failed(&error))?;
        }
        Ok((std::ptr::without_provenance_mut(at), length, Some(tag)))
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
        key: Key,
    ) -> Step {
        let entry = opcode::Write::new(types::Fixed(file.0), address, length).offset(offset).build();
        // SAFETY: the caller's promise.
        unsafe { self.submit(entry, key) }
    }

    /// Makes what was written to the file durable (fdatasync).
    pub fn sync_file(&mut self, file: Slot, key: Key) -> Step {
        let entry = opcode::Fsync::new(types::Fixed(file.0)).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: points to no memory.
        unsafe { self.submit(entry, key) }
    }

    /// fallocate(2) with `mode` on the piece's range of the file.
    pub fn allocate_file(&mut self, file: Slot, piece: &Piece, mode: i32, key: Key) -> Step {
        let entry = opcode::Fallocate::new(types::Fixed(file.0), piece.length)
            .offset(piece.offset)
            .mode(mode)
            .build();
        // SAFETY: points to no memory.
        unsafe { self.submit(entry, key) }
    }

    /// Whether data of the call is lent, or an operation for it is in the ring.
    pub(crate) fn lent(&self) -> bool {
        self.calls.busy(self.call)
    }

    /// A token for an event outside the ring that the call waits for: a [`Completer`](super::Completer) resumes it with this
    /// key.
    pub fn token(&self, key: Key) -> Token {
        let (ticket, call) = (self.request.ticket, self.call);
        Token { ticket, call, generation: self.calls.generation(call), key }
    }

    /// The call goes on with that key when all else that the turn brought is done: for what is done once for all calls of a
    /// turn. Costs no system call.
    pub fn go_on_later(&mut self, key: Key) {
        let token = self.token(key);
        self.calls.goes_on_later(token, 0);
    }

    /// Lends the piece's data. With [`CopyMode::Copy`]. `completer`: that of the engine's site.
    pub fn lend(&mut self, piece: &Piece, completer: &Completer) -> Result<Lease, Errno> {
        assert!(self.data.copy == CopyMode::Copy, "there is no data to lend");
        self.borrow()?;
        let (address, length) = self.buffer(piece);
        let (tag, call) = (self.request.ticket.tag, self.call);
        self.calls.lend(tag, call);
        // SAFETY: the tag's buffer, of which no reference exists while this counts as an operation. A queue that ends before
        // gives its buffers up instead of freeing them.
        Ok(unsafe { Lease::new(address, length, completer.clone(), tag, call) })
    }

    /// The piece's data, for operations of a line. With [`CopyMode::Copy`].
    pub fn stretch(&mut self, piece: &Piece) -> Result<Stretch, Errno> {
        let tag = self.request.ticket.tag;
        if piece.data_length() == 0 {
            return Ok(Stretch::empty(tag, self.call));
        }
        assert!(self.data.copy == CopyMode::Copy, "the data is elsewhere");
        self.borrow()?;
        let (address, length) = self.buffer(piece);
        Ok(Stretch { address, length, tag, call: self.call })
    }

    /// The line is told when all else that the turn brought is done.
    #[inline]
    pub fn line_is_due(&mut self, line: LineId) {
        self.lines.due(line);
    }

    /// # Safety
    /// As [`Ring::push`].
    #[inline]
    unsafe fn submit(&mut self, entry: squeue::Entry, key: Key) -> Step {
        let tag = self.request.ticket.tag;
        let entry = entry.user_data(user_data::operation(tag, self.call, key));
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.ring.push(&entry) } {
            return Step::Done(Err(self.failed(&error)));
        }
        self.calls.started(tag, self.call);
        Step::Pending
    }

    /// Makes a call of the current one, for a part that the disk `below` is asked for, and serves that from here on.
    /// Returns the call before; `None` if there are too many.
    #[inline]
    pub(crate) fn enter(&mut self, below: u16, number: u32, length: u64) -> Option<Call> {
        let call = self.calls.begin(self.call, below, number, length)?;
        Some(std::mem::replace(&mut self.call, call))
    }

    /// Switches to a part of the current call. Returns the previous call.
    #[inline]
    pub(crate) fn enter_again(&mut self, hop: &Hop) -> Call {
        std::mem::replace(&mut self.call, hop.call)
    }

    /// Switches back to the previous call; the one that was served has ended, or still waits.
    #[inline]
    pub(crate) fn leave(&mut self, before: Call, ended: bool) {
        if ended {
            self.calls.end(self.call);
        }
        self.call = before;
    }

    /// Which of the current call's parts a completion belongs to; `None`: to the call itself.
    #[inline]
    pub(crate) fn hop(&self, completion: &Completion) -> Option<Hop> {
        self.calls.hop(self.call, completion.call)
    }
}
