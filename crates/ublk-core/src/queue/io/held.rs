//! Data of several requests that goes to a file in memory together, by one system call.

use super::Io;
use crate::queue::calls::Call;
use crate::queue::{CopyMode, Errno, Op, Piece};
use libc::iovec;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How many places one system call names at most.
const PLACES: usize = 64;

/// Where the data of a piece stays until its request is answered. It names a place in the queue's buffers, so it is never
/// invalid: after the answer, something else is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    tag: u16,
    at: usize,
    length: usize,
    /// What it is for, which may have failed.
    call: Call,
    generation: u32,
}

impl Held {
    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length as u64
    }
}

impl Io<'_> {
    /// Has the data of a piece of a write in the tag's buffer, from where [`write_held`](Self::write_held) takes it before the
    /// request is answered. Not with [`CopyMode::Zero`].
    pub fn hold(&mut self, piece: &Piece) -> Result<Held, Errno> {
        assert!(piece.op == Op::Write && self.data.copy != CopyMode::Zero, "there is no data to hold");
        let (tag, (at, length)) = (self.request.ticket.tag, self.range(piece));
        assert!(at + length <= self.data.buffers.each());
        let taken = if self.request.what.shared.is_some() {
            self.data.take_shared(&self.request, at, length)
        } else if self.data.copy == CopyMode::User {
            self.data.take(tag, at, length)
        } else {
            Ok(())
        };
        taken.map_err(|error| self.unmoved(&error))?;
        Ok(Held { tag, at, length, call: self.call, generation: self.calls.generation(self.call) })
    }

    /// Whether the data is still there: its request has not failed meanwhile, in a layer above.
    pub fn holds(&self, held: &Held) -> bool {
        self.calls.is(held.call, held.generation)
    }

    /// Writes held data to a file, one behind the other from `offset` on and at once: for files in memory, whose system calls
    /// never wait for a device. Returns how many bytes are there, and why not all of them are.
    ///
    /// # Panics
    /// If one does not [hold](Self::holds) any more, or lies outside this queue's buffers.
    pub fn write_held(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        held: &[Held],
    ) -> (u64, Result<(), Errno>) {
        let mut vectors = [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PLACES];
        // Bytes in all, and of `rest[0]`.
        let (mut done, mut within, mut rest) = (0, 0, held);
        while !rest.is_empty() {
            let mut count = 0;
            for (vector, held) in vectors.iter_mut().zip(rest) {
                let fits =
                    held.at.checked_add(held.length).is_some_and(|end| end <= self.data.buffers.each());
                assert!(fits && self.holds(held), "there is no such data");
                let from = if count == 0 { within } else { 0 };
                let address = self.data.buffers.address(held.tag);
                // SAFETY: within the tag's buffer, by the assertion.
                let address = unsafe { address.add(held.at + from) };
                *vector = iovec { iov_base: address.cast(), iov_len: held.length - from };
                count += 1;
            }
            let at = (offset + done).cast_signed();
            // SAFETY: each place is in the queue's buffers, which stay mapped, and of which no reference exists here.
            let moved = unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, at) };
            let moved = match usize::try_from(moved) {
                Ok(0) => return (done, Err(libc::EIO)),
                Ok(moved) => moved,
                Err(_) => match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => continue,
                    errno => return (done, Err(errno.unwrap_or(libc::EIO))),
                },
            };
            done += moved as u64;
            within += moved;
            while let [first, others @ ..] = rest
                && within >= first.length
            {
                (within, rest) = (within - first.length, others);
            }
        }
        (done, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Descriptor, LoneQueue, Needs, Waker};
    use std::os::fd::AsFd;

    fn queue(max_io: u32) -> LoneQueue {
        LoneQueue::new(2, max_io, Needs::default(), Waker::new().unwrap()).unwrap()
    }

    fn held(queue: &mut LoneQueue, length: u64) -> Held {
        queue.begin(0, Descriptor::new(Op::Write, 0, length));
        let mut io = queue.io(0);
        let piece = io.request.what.piece();
        io.hold(&piece).unwrap()
    }

    #[test]
    #[should_panic(expected = "there is no such data")]
    fn held_data_of_another_queue_is_not_looked_for_behind_a_buffer() {
        let (mut large, mut small) = (queue(64 << 10), queue(4096));
        let held = held(&mut large, 64 << 10);
        small.begin(0, Descriptor::new(Op::Write, 0, 512));
        let file = tempfile::tempfile().unwrap();
        let _ = small.io(0).write_held(file.as_fd(), 0, &[held]);
    }

    #[test]
    fn data_is_held_until_its_request_has_failed() {
        let mut queue = queue(4096);
        let held = held(&mut queue, 512);
        queue.begin(1, Descriptor::new(Op::Write, 0, 512));
        assert!(queue.io(1).holds(&held));
        assert!(queue.answered(0));
        assert!(!queue.io(1).holds(&held));
        queue.begin(0, Descriptor::new(Op::Write, 0, 512));
        assert!(!queue.io(0).holds(&held), "the next request at the same tag has other data");
    }
}
