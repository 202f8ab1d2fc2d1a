//! What a queue receives. Many small replies come with one operation, into memory of the connection, and their data is copied
//! from there: that costs less than an operation for each. What is still to come of a long read goes straight to its
//! request's buffer.

use crate::error::Result;
use crate::queue::{Key, LineIo, Slot, Stretch};
use std::mem::ManuallyDrop;

/// The key of its operations.
pub const RECEIVED: Key = 1;

/// Bytes of memory of the connection.
const ROOM: usize = 128 << 10;
/// The part of it that is offered behind the data of a long read: what follows is to go to its own buffer, too.
const BEHIND: usize = 4 << 10;
/// Bytes: a read with at least this much still to come is long.
const LONG: usize = 32 << 10;

struct Memory {
    room: Box<[u8]>,
    places: [libc::iovec; 2],
    message: libc::msghdr,
}

/// Where data of a read goes.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    /// The request's number.
    pub number: u32,
    pub data: Stretch,
    /// Where its next byte goes.
    pub at: usize,
    pub left: usize,
    /// Whether its reply ends with it.
    pub last: bool,
}

/// See the [module](self).
pub struct Incoming {
    /// Given up, and not freed, if the ring uses it when this is dropped.
    memory: ManuallyDrop<Box<Memory>>,
    /// Which bytes of the room have come and are not used.
    start: usize,
    end: usize,
    /// The read whose data comes next.
    pub filling: Option<Filling>,
    /// The operation in the ring begins with that data.
    direct: Option<Stretch>,
    busy: bool,
}

impl Incoming {
    pub fn new() -> Self {
        // SAFETY: all zeroes is a message without places, and a place of no bytes.
        let (message, places) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let memory = Memory { room: vec![0; ROOM].into(), places, message };
        Self {
            memory: ManuallyDrop::new(Box::new(memory)),
            start: 0,
            end: 0,
            filling: None,
            direct: None,
            busy: false,
        }
    }

    /// Whether an operation is in the ring.
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// Whether nothing has come that was not used.
    pub fn is_empty(&self) -> bool {
        self.start == self.end && self.filling.is_none()
    }

    /// A new connection.
    pub fn begin(&mut self) {
        (self.start, self.end, self.filling) = (0, 0, None);
    }

    /// What has come, for a decoder, which says how much it has used.
    pub fn bytes(&self) -> &[u8] {
        &self.memory.room[self.start..self.end]
    }

    /// So many bytes are used.
    pub fn used(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.end);
    }

    /// Copies what has come to the data that is being filled. What was filled, if it is complete.
    pub fn fill(&mut self) -> Option<Filling> {
        let filling = self.filling.as_mut()?;
        let come = (self.end - self.start).min(filling.left);
        // SAFETY: its request is answered when all of it has come, and nothing is filled after a connection is lost.
        unsafe { filling.data.put(filling.at, &self.memory.room[self.start..self.start + come]) };
        (filling.at, filling.left) = (filling.at + come, filling.left - come);
        self.start += come;
        if filling.left == 0 { self.filling.take() } else { None }
    }

    /// Receives more. All that has come was used.
    #[expect(clippy::cast_possible_truncation, reason = "the room is small")]
    pub fn receive(&mut self, io: &mut LineIo<'_>, socket: Slot) -> Result<()> {
        if self.busy {
            return Ok(());
        }
        (self.start, self.end) = (0, 0);
        let Memory { room, places, message } = &mut **self.memory;
        match &self.filling {
            Some(Filling { data, at, left, .. }) => {
                assert!(*at <= data.length() && *left <= data.length() - at, "it is filled in its bounds");
                let behind = if *left >= LONG { BEHIND } else { ROOM };
                // SAFETY: within the data, by the assertion.
                let base = unsafe { data.address().add(*at) };
                places[0] = libc::iovec { iov_base: base.cast(), iov_len: *left };
                places[1] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: behind };
                (message.msg_iov, message.msg_iovlen) = (places.as_mut_ptr(), 2);
                // SAFETY: memory of this connection's, which stays while this is busy, and is given up if it is dropped
                // then; and data of a request that is not answered before.
                unsafe { io.receive_message(socket, &raw mut *message, RECEIVED)? };
                io.uses(data);
                self.direct = Some(*data);
            }
            None => {
                // SAFETY: as above.
                unsafe { io.receive(socket, room.as_mut_ptr(), ROOM as u32, RECEIVED)? };
            }
        }
        self.busy = true;
        Ok(())
    }

    /// The operation has completed. An error: the connection is lost. `None`: it was interrupted.
    pub fn received(&mut self, io: &mut LineIo<'_>, result: i32) -> std::result::Result<Option<()>, i32> {
        self.busy = false;
        let direct = self.direct.take();
        if let Some(data) = &direct {
            io.used(data);
        }
        let mut come = match result {
            errno if errno < 0 && matches!(-errno, libc::EINTR | libc::EAGAIN) => return Ok(None),
            errno if errno < 0 => return Err(-errno),
            0 => return Err(0),
            come => come.cast_unsigned() as usize,
        };
        if let (Some(_), Some(filling)) = (direct, &mut self.filling) {
            let there = come.min(filling.left);
            (filling.at, filling.left, come) = (filling.at + there, filling.left - there, come - there);
        }
        (self.start, self.end) = (0, come);
        Ok(Some(()))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.busy {
            // SAFETY: dropped once, here; the ring does not use it.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}
