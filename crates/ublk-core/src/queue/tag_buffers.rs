//! The buffers of a queue's tags, for code that serves requests from them without an engine.

use super::{Buffers, CopyMode, Op, Queue, Ticket};
use crate::number::to_usize;

impl Queue {
    /// The queue's data buffers.
    pub fn buffers(&self) -> &Buffers {
        &self.data.buffers
    }

    /// Copies a write's data into its buffer if the driver does not, because of the copy mode or because the data is in
    /// shared memory. Call it once after the request arrives, also for a read that is answered from its buffer.
    pub fn load(&mut self, ticket: Ticket) -> std::io::Result<()> {
        let request = self.request(ticket);
        if request.what.shared.is_some() {
            return self.data.borrow_shared(&request);
        }
        self.move_buffer(ticket, Op::Write)
    }

    /// Copies a read's data from its buffer to the request, if the driver does not. Call it before the commit.
    pub fn store(&mut self, ticket: Ticket) -> std::io::Result<()> {
        self.move_buffer(ticket, Op::Read)
    }

    fn move_buffer(&mut self, ticket: Ticket, op: Op) -> std::io::Result<()> {
        if self.data.copy != CopyMode::User {
            return Ok(());
        }
        let what = self.request(ticket).what;
        if what.op != op || what.shared.is_some() {
            return Ok(());
        }
        self.data.move_buffer(ticket.tag, to_usize(what.length), op == Op::Write)
    }
}
