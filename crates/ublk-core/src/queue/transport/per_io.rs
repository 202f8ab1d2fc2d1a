//! A command for every tag: FETCH_REQ once, then COMMIT_AND_FETCH_REQ, each of which completes with a request.

use crate::abi::{self, io_op};
use crate::error::Result;
use crate::queue::CHAR_DEV;
use crate::queue::data::Data;
use crate::queue::in_flight::InFlight;
use crate::queue::ring::Ring;
use crate::queue::user_data::{KIND_COMMAND, KIND_MOVE, tag_of};
use io_uring::{cqueue, opcode};

/// See the [module](self).
pub struct PerIo {
    queue: u16,
    /// Tags whose answers were held back, since what was to be moved with them was not: they get an error.
    again: Vec<u16>,
}

impl PerIo {
    pub fn new(queue: u16) -> Self {
        Self { queue, again: Vec::new() }
    }

    pub fn offer_all(&mut self, ring: &mut Ring, data: &Data) -> Result<()> {
        data.buffers.tags().try_for_each(|tag| self.push(ring, data, io_op::FETCH_REQ, tag, 0))
    }

    #[inline]
    pub fn answer(&mut self, ring: &mut Ring, data: &mut Data, tag: u16, result: i32) -> Result<()> {
        if data.moves(tag) {
            if let Some(entry) = data.linked_move(tag).filter(|_| result >= 0) {
                ring.reserve(2)?; // else the link would be cut
                // SAFETY: valid until it is submitted, by the promise given to Data::put_off.
                unsafe { ring.push(&entry)? };
            }
            data.moved(tag);
        }
        self.push(ring, data, io_op::COMMIT_AND_FETCH_REQ, tag, result)
    }

    #[inline]
    pub fn completed(
        &mut self,
        kind: u64,
        completion: &cqueue::Entry,
        in_flight: &mut InFlight,
    ) -> Result<()> {
        let (tag, result) = (tag_of(completion.user_data()), completion.result());
        if kind == KIND_MOVE {
            // It failed, and the answer that was linked to it is not given. (Of that no completion tells.)
            self.again.push(tag);
            return Ok(());
        }
        in_flight.completed(tag, result)
    }

    #[inline]
    pub fn settle(&mut self, ring: &mut Ring, data: &mut Data) -> Result<()> {
        while let Some(tag) = self.again.pop() {
            self.push(ring, data, io_op::COMMIT_AND_FETCH_REQ, tag, -libc::EIO)?;
        }
        Ok(())
    }

    /// A command's address is the tag's own buffer: where this READ's data is taken from, and where the next WRITE's
    /// will be put.
    #[inline]
    fn push(&self, ring: &mut Ring, data: &Data, op: u32, tag: u16, result: i32) -> Result<()> {
        let entry = opcode::UringCmd16::new(CHAR_DEV, op)
            .cmd(abi::io_command(self.queue, tag, result, data.address(tag)))
            .addr(data.slot(tag).map(abi::auto_registration))
            .build()
            .user_data(KIND_COMMAND | u64::from(tag));
        // SAFETY: the buffer is the tag's own and outlives the ring; it is handed out only while the tag is owned.
        unsafe { ring.push(&entry) }
    }
}
