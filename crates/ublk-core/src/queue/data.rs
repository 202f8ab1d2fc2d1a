//! Where the data of a queue's requests is, in each [`CopyMode`], and what the driver has to know about it.

use super::client_copies::{ClientCopies, ClientCopy, Direction};
use super::client_memory::ClientMemories;
use super::mode::CopyMode;
use super::ring::Ring;
use super::user_data::{KIND_MOVE, KIND_REGISTRATION};
use super::vectors::Vectors;
use super::{Buffers, CHAR_DEV, Op, Request};
use crate::abi::{self, io_op};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use crate::request::request_length;
use io_uring::{opcode, squeue};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// See the [module](self).
pub struct Data {
    pub copy: CopyMode,
    pub buffers: Buffers,
    pub vectors: Vectors,
    queue: u16,
    /// [`CopyMode::User`]: the copy that goes with the answer of each tag.
    moves: Box<[Option<Move>]>,
    /// [`CopyMode::Zero`]: tags whose pages we registered ourselves, since the driver could not.
    by_hand: Box<[bool]>,
    /// Makes the driver fail to register them.
    #[cfg(feature = "testing")]
    only_by_hand: bool,
    shared: Arc<ClientMemories>,
    /// By tag: how the data of a request in shared memory was used.
    borrowed: Box<[Borrowed]>,
    /// Copies from and to shared memory that the next turn makes.
    copies: ClientCopies,
    /// Open as long as the queue lives, which may end before this: what the kernel still uses is given up, not closed.
    char_dev: RawFd,
}

/// How the data of a request in shared memory was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Borrowed {
    #[default]
    No,
    /// Some of it where it lies.
    InPlace,
    /// It is in the tag's buffer, from where a read's has to go back with the answer.
    Buffer,
}

/// A copy between memory of this process and a request.
#[derive(Debug, Clone, Copy)]
struct Move {
    /// From where on in the request.
    from: usize,
    address: *mut u8,
    length: usize,
    /// Out of the request.
    take: bool,
}

impl Data {
    pub fn new(
        copy: CopyMode,
        buffers: Buffers,
        vectors: Vectors,
        queue: u16,
        shared: Arc<ClientMemories>,
        char_dev: RawFd,
    ) -> Self {
        let depth = usize::from(buffers.depth());
        let tags = |copy_mode| if copy == copy_mode { depth } else { 0 };
        Self {
            copy,
            buffers,
            vectors,
            queue,
            moves: vec![None; tags(CopyMode::User)].into(),
            by_hand: vec![false; tags(CopyMode::Zero)].into(),
            #[cfg(feature = "testing")]
            only_by_hand: false,
            shared,
            borrowed: vec![Borrowed::No; depth].into(),
            copies: ClientCopies::new(depth),
            char_dev,
        }
    }

    #[cfg(feature = "testing")]
    pub fn only_by_hand(self, only_by_hand: bool) -> Self {
        Self { only_by_hand, ..self }
    }

    /// What the driver is told with a tag that is offered: the address of its buffer, if it is to use one.
    pub fn address(&self, tag: u16) -> u64 {
        if self.copy == CopyMode::Copy { self.buffers.address(tag) as u64 } else { 0 }
    }

    /// The slot of the ring's buffer table that the pages of the tag's requests go to, if they do.
    pub fn slot(&self, tag: u16) -> Option<u16> {
        #[cfg(feature = "testing")]
        let tag = if self.only_by_hand { u16::MAX } else { tag };
        (self.copy == CopyMode::Zero).then_some(tag)
    }

    /// The address of the request's data in shared memory, if it is to be used there; only for operations in the ring.
    pub fn shared_address(&mut self, request: &Request) -> Result<Option<*mut u8>> {
        let Some(place) = request.what.shared else { return Ok(None) };
        let borrowed = &mut self.borrowed[usize::from(request.ticket.tag)];
        if *borrowed == Borrowed::Buffer {
            return Ok(None);
        }
        *borrowed = Borrowed::InPlace;
        let address = self.shared.address(place, to_usize(request.what.length));
        let unknown = || {
            let number = place.memory;
            Error::new(
                ErrorKind::System,
                format!("the driver names shared memory {number}, which is unknown"),
            )
        };
        address.map(Some).ok_or_else(unknown)
    }

    /// Whether some of the data of the tag's request was used in shared memory, where it lies.
    pub fn in_place(&self, tag: u16) -> bool {
        self.borrowed[usize::from(tag)] == Borrowed::InPlace
    }

    /// Copies the data of a request from shared memory to the tag's buffer, for code that reads it: clients may write
    /// or truncate that memory at any time. From here on it is used there.
    pub fn borrow_shared(&mut self, request: &Request) -> io::Result<()> {
        let Request { ticket, what } = *request;
        let Some(place) = what.shared else { return Ok(()) };
        let before = std::mem::replace(&mut self.borrowed[usize::from(ticket.tag)], Borrowed::Buffer);
        // A read of which nothing was done has nothing there yet.
        if before == Borrowed::Buffer || (before == Borrowed::No && what.op != Op::Write) {
            return Ok(());
        }
        if self.copies.planned(ticket.tag) {
            self.copies.run(); // a part of it may have been put there
        }
        let length = to_usize(what.length);
        assert!(length <= self.buffers.each());
        // SAFETY: the tag's buffer is long enough by the assertion, and the caller owns it.
        unsafe { self.shared.read(place, 0, self.buffers.address(ticket.tag), length) }
    }

    /// Copies a part of a write from shared memory to the same place in the tag's buffer, unless it is there already. Other parts
    /// may be used where they lie.
    pub fn take_shared(&self, request: &Request, from: usize, length: usize) -> io::Result<()> {
        let Request { ticket, what } = *request;
        let Some(place) = what.shared else { return Ok(()) };
        if self.borrowed[usize::from(ticket.tag)] == Borrowed::Buffer {
            return Ok(());
        }
        assert!(from + length <= self.buffers.each());
        // SAFETY: within the tag's buffer, by the assertion, and the caller owns it.
        unsafe { self.shared.read(place, from, self.buffers.address(ticket.tag).add(from), length) }
    }

    /// Called when a request in shared memory is committed with `result`: a read in the tag's buffer goes to shared memory.
    /// Returns whether it can be answered only after the next [copies](Self::copy_shared), with the result of
    /// [`finish_shared`](Self::finish_shared).
    pub fn return_shared(&mut self, request: &Request, result: i32) -> bool {
        let Request { ticket, what } = *request;
        let borrowed = std::mem::take(&mut self.borrowed[usize::from(ticket.tag)]);
        if borrowed == Borrowed::Buffer && what.op == Op::Read && result > 0 {
            let (buffer, length) = (self.buffers.address(ticket.tag), usize::try_from(result).unwrap_or(0));
            assert!(length <= self.buffers.each());
            // SAFETY: the tag's buffer is long enough by the assertion, and stays as it is until the request is answered.
            if unsafe { self.copy_part(request, 0, buffer, length) }.is_err() {
                self.copies.fail(ticket.tag);
            }
        }
        self.copies.planned(ticket.tag)
    }

    /// Makes the copies from and to shared memory that were planned.
    #[inline]
    pub fn copy_shared(&mut self) {
        if self.copies.any() {
            self.copies.run();
        }
    }

    /// Makes all copies of the tag's request now.
    pub fn copy_shared_of(&mut self, tag: u16) -> io::Result<()> {
        if self.copies.planned(tag) {
            self.copies.run();
        }
        if self.copies.failed(tag) { Err(io::Error::from_raw_os_error(libc::EFAULT)) } else { Ok(()) }
    }

    /// Called before a request in shared memory is answered with `result`. Returns the final result.
    pub fn finish_shared(&mut self, request: &Request, result: i32) -> i32 {
        let Some(place) = request.what.shared else { return result };
        let copied = self.copies.finish(request.ticket.tag);
        let result = if copied || result < 0 { result } else { -libc::EIO };
        if result < 0 {
            self.shared.failed(place.memory);
        }
        result
    }

    /// Copies `length` bytes between memory of this process and a request in shared memory, from its byte `from` on:
    /// into a read, or out of a write; with the next [copies](Self::copy_shared), before the request is answered. Returns
    /// false if they are in the tag's buffer.
    ///
    /// # Safety
    /// The memory is valid for `length` bytes until then, and no reference to it exists.
    pub unsafe fn move_shared(
        &mut self,
        request: &Request,
        from: usize,
        address: *mut u8,
        length: usize,
    ) -> io::Result<bool> {
        assert!(from + length <= to_usize(request.what.length));
        let borrowed = &mut self.borrowed[usize::from(request.ticket.tag)];
        if *borrowed == Borrowed::Buffer {
            return Ok(false);
        }
        *borrowed = Borrowed::InPlace;
        // SAFETY: the caller's promise.
        unsafe { self.copy_part(request, from, address, length) }.map(|()| true)
    }

    /// Copies bytes of a request in shared memory: now, if that needs no system call, or with the next copies.
    ///
    /// # Safety
    /// As [`move_shared`](Self::move_shared).
    unsafe fn copy_part(
        &mut self,
        request: &Request,
        from: usize,
        here: *mut u8,
        length: usize,
    ) -> io::Result<()> {
        let Some(place) = request.what.shared else { return Ok(()) };
        let (there, stays) = self.shared.part(place, from, length)?;
        let (tag, take) = (request.ticket.tag, request.what.op == Op::Write);
        let direction = if take { Direction::Take } else { Direction::Give };
        // SAFETY: the caller's promise for `here`. The driver waits for all requests before a memory is unshared, so its
        // mapping stays until the request is answered. If its pages are always there, a plain copy is possible: clients may
        // change the bytes meanwhile, which no code here depends on.
        unsafe {
            match direction {
                _ if !stays => self.copies.plan(ClientCopy { tag, direction, here, there, length }),
                Direction::Take => std::ptr::copy(there, here, length),
                Direction::Give => std::ptr::copy(here, there, length),
            }
        }
        Ok(())
    }

    /// Moves bytes with the answer of the tag's request, or at once if something is to be moved with it already.
    ///
    /// # Safety
    /// The memory stays valid until the answer is submitted, and nobody holds a reference to it.
    pub unsafe fn put_off(
        &mut self,
        tag: u16,
        from: usize,
        address: *mut u8,
        length: usize,
        take: bool,
    ) -> io::Result<()> {
        let planned = Move { from, address, length, take };
        match &mut self.moves[usize::from(tag)] {
            Some(_) => self.run(tag, planned),
            room => {
                *room = Some(planned);
                Ok(())
            }
        }
    }

    /// Moves bytes of the tag's request to the same place in its buffer, at once. With [`CopyMode::User`].
    pub fn take(&self, tag: u16, from: usize, length: usize) -> io::Result<()> {
        assert!(from + length <= self.buffers.each());
        // SAFETY: within the tag's buffer, by the assertion.
        let address = unsafe { self.buffers.address(tag).add(from) };
        self.run(tag, Move { from, address, length, take: true })
    }

    /// Moves the first `length` bytes between the tag's request and its buffer, at once.
    pub fn move_buffer(&self, tag: u16, length: usize, take: bool) -> io::Result<()> {
        assert!(length <= self.buffers.each());
        self.run(tag, Move { from: 0, address: self.buffers.address(tag), length, take })
    }

    /// Moves at once.
    fn run(&self, tag: u16, Move { mut from, mut address, mut length, take }: Move) -> io::Result<()> {
        let fd = self.char_dev;
        while length > 0 {
            let at = (abi::data_offset(self.queue, tag) + from as u64).cast_signed();
            // SAFETY: the memory is the tag's buffer, or valid by the promise given to put_off.
            let moved = unsafe {
                if take {
                    libc::pread(fd, address.cast(), length, at)
                } else {
                    libc::pwrite(fd, address.cast(), length, at)
                }
            };
            match usize::try_from(moved) {
                Err(_) => return Err(io::Error::last_os_error()),
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Ok(moved) => {
                    (from, length) = (from + moved, length - moved);
                    // SAFETY: within the same memory.
                    address = unsafe { address.add(moved) };
                }
            }
        }
        Ok(())
    }

    /// Moves now what was to go with the tag's answer.
    pub fn move_now(&mut self, tag: u16) -> io::Result<()> {
        match self.moves.get_mut(usize::from(tag)).and_then(Option::take) {
            Some(planned) => self.run(tag, planned),
            None => Ok(()),
        }
    }

    /// Whether something goes with the tag's answer.
    pub fn moves(&self, tag: u16) -> bool {
        self.moves.get(usize::from(tag)).is_some_and(Option::is_some)
    }

    /// The tag's answer takes nothing with it (any more).
    pub fn moved(&mut self, tag: u16) {
        if let Some(planned) = self.moves.get_mut(usize::from(tag)) {
            *planned = None;
        }
    }

    /// What moves the bytes that go with the tag's answer, linked to what follows: that is not done if this is not, and
    /// then only this completes.
    pub fn linked_move(&self, tag: u16) -> Option<squeue::Entry> {
        let planned = (*self.moves.get(usize::from(tag))?)?;
        let at = abi::data_offset(self.queue, tag) + planned.from as u64;
        let length = request_length(planned.length);
        let entry = if planned.take {
            opcode::Read::new(CHAR_DEV, planned.address, length).offset(at).build()
        } else {
            opcode::Write::new(CHAR_DEV, planned.address, length).offset(at).build()
        };
        let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        Some(entry.flags(flags).user_data(KIND_MOVE | u64::from(tag)))
    }

    /// Registers the pages of the tag's request; what is pushed next is done only if that succeeds.
    pub fn register(&mut self, ring: &mut Ring, tag: u16) -> Result<()> {
        ring.reserve(2)?;
        self.by_hand[usize::from(tag)] = true;
        self.push_registration(ring, io_op::REGISTER_IO_BUF, tag, squeue::Flags::IO_LINK)
    }

    /// Whether the pages of the tag's request were registered by us.
    pub fn registered(&self, tag: u16) -> bool {
        self.by_hand.get(usize::from(tag)).copied().unwrap_or(false)
    }

    /// Takes back what [`register`](Self::register) did, before the request is answered.
    pub fn unregister(&mut self, ring: &mut Ring, tag: u16) -> Result<()> {
        if !self.registered(tag) {
            return Ok(());
        }
        self.by_hand[usize::from(tag)] = false;
        self.push_registration(ring, io_op::UNREGISTER_IO_BUF, tag, squeue::Flags::empty())
    }

    fn push_registration(&self, ring: &mut Ring, op: u32, tag: u16, link: squeue::Flags) -> Result<()> {
        let entry = opcode::UringCmd16::new(CHAR_DEV, op)
            .cmd(abi::io_command(self.queue, tag, 0, tag.into()))
            .build()
            .flags(link)
            .user_data(KIND_REGISTRATION | u64::from(tag));
        // SAFETY: points to no memory.
        unsafe { ring.push(&entry) }
    }
}
