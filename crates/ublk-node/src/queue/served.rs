//! A queue as its thread has it, and the batches that go through it.

use super::Abilities;
use super::layout::{Entry, QueueMemory};
use super::watch::Watch;
use crate::number::number;
use crate::wire::{self, BATCH_ENDED as ENDED, BATCH_EVENTS as EVENTS};
use ublk_core::device::ServedQueue;
use ublk_core::error::{Error as CoreError, Result as CoreResult};
use ublk_core::queue::{Event, Op, Outcome, Ticket, Wait};

/// See the [module](self).
pub struct Served {
    // Dropped before the queue that it watches.
    pub watch: Option<Watch>,
    pub queue: ServedQueue,
    /// Whether it listens to its thread's event loop.
    pub listens: bool,
    /// Whether that has something to do, which comes after the requests that are there.
    events: bool,
    /// The requests of the batch, by position.
    batch: Vec<Ticket>,
    pub shared: QueueMemory,
    able: Abilities,
}

impl Served {
    pub fn new(queue: ServedQueue, able: Abilities) -> CoreResult<Self> {
        let shared = QueueMemory::new(queue.buffers())?;
        let batch = Vec::with_capacity(queue.buffers().depth().into());
        Ok(Self { watch: None, queue, listens: false, events: false, batch, shared, able })
    }

    /// Answers the first `finished` requests of the batch, and waits for the next.
    pub fn next(&mut self, finished: usize) -> CoreResult<i32> {
        self.answer_batch(finished)?;
        if std::mem::take(&mut self.events) {
            return Ok(EVENTS);
        }
        let count = self.turn(Wait::Forever)?;
        match (count, self.queue.heard()) {
            (0, true) => Ok(EVENTS),
            (_, heard) => {
                self.events = heard; // after these requests
                Ok(count)
            }
        }
    }

    /// Gives the first `count` answers. Returns how many were refused.
    pub fn settle(&mut self, count: usize) -> CoreResult<i32> {
        let mut refused = 0;
        for at in 0..count {
            let (tag, generation, result) = self.shared.answer(at);
            match self.queue.ticket(tag).filter(|ticket| ticket.generation == generation) {
                Some(ticket) => answer(&mut self.queue, ticket, result)?,
                None => refused += 1,
            }
        }
        Ok(refused)
    }

    /// Lets go of the queue, with the reason if that is a failure.
    pub fn end(self, error: Option<&CoreError>) {
        drop(self.watch);
        if let Some(error) = error {
            self.queue.fail(error);
        }
    }

    fn answer_batch(&mut self, finished: usize) -> CoreResult<()> {
        for (at, ticket) in self.batch.drain(..).enumerate().take(finished) {
            answer(&mut self.queue, ticket, self.shared.result(at))?;
        }
        Ok(())
    }

    /// Turns until there is something for JavaScript.
    pub fn turn(&mut self, wait: Wait) -> CoreResult<i32> {
        let mut looks = 0;
        loop {
            looks += 1;
            self.queue.turn(wait)?;
            self.fill()?;
            let queue = &self.queue;
            if queue.settled() || queue.given_up() {
                return Ok(ENDED);
            }
            // The kernel may say that there is more when there is not: once more is enough to find what there is.
            let nothing_left = wait == Wait::No && (looks > 1 || !queue.pending());
            let called = queue.woken() || queue.heard();
            if !self.batch.is_empty() || called || nothing_left {
                return Ok(least(self.batch.len()));
            }
        }
    }

    /// Describes what came. What concerns no backend is answered here.
    fn fill(&mut self) -> CoreResult<()> {
        let Self { queue, batch, shared, able, .. } = self;
        batch.clear();
        let mut at = 0;
        while let Some(event) = queue.event(at) {
            at += 1;
            let Event::Request(ticket) = event else { continue };
            let what = queue.request(ticket).what;
            if let Err(error) = queue.load(ticket) {
                queue.commit(ticket, Err(error.raw_os_error().unwrap_or(5 /* EIO */)))?;
                continue;
            }
            let possible = match what.op {
                Op::Read => true,
                Op::Write => able.write,
                Op::Flush => able.flush,
                Op::Discard => able.discard,
                // The kernel writes zeroes as data then.
                Op::WriteZeroes => able.write_zeroes,
                _ => false,
            };
            if !possible {
                let nothing_to_flush = what.op == Op::Flush;
                queue.commit(
                    ticket,
                    if nothing_to_flush {
                        Ok(0)
                    } else {
                        Err(95 /* EOPNOTSUPP */)
                    },
                )?;
                continue;
            }
            shared.put(
                batch.len(),
                &Entry {
                    offset: number(what.offset),
                    length: number(what.length),
                    result: if what.op.has_data() { least(what.length) } else { 0 },
                    generation: ticket.generation,
                    tag: ticket.tag,
                    op: wire::op(what.op),
                    flags: wire::flags(what.flags),
                },
            );
            batch.push(ticket);
        }
        Ok(())
    }
}

/// Answers a request with a result from JavaScript, and a read with its buffer.
fn answer(queue: &mut ServedQueue, ticket: Ticket, result: i32) -> CoreResult<()> {
    let moved = if result >= 0 { queue.store(ticket) } else { Ok(()) };
    let failed = |error: std::io::Error| error.raw_os_error().unwrap_or(5 /* EIO */);
    queue.commit(ticket, moved.map_err(failed).and_then(|()| outcome(result)))
}

/// The number of requests in a batch and the length of a request are far smaller.
fn least(count: impl TryInto<i32>) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}

fn outcome(result: i32) -> Outcome {
    u32::try_from(result).map_err(|_| result.saturating_neg())
}
