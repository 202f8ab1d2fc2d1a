//! A queue that a JavaScript thread owns: a Worker that blocks in `next`, or an event loop that watches.

mod layout;
mod memory;
mod place;
mod seats;
mod watch;

pub use place::leave_all;
pub use seats::{Offer, hand_out};

use crate::task::raised;
use layout::{Entry, Shared, SharedLayout};
use napi::bindgen_prelude::{Function, Unknown};
use napi::{Env, Result, sys};
use napi_derive::napi;
use place::Place;
use std::ffi::c_int;
use std::sync::Arc;
use ublk_core::device::Seated;
use ublk_core::error::{Error as CoreError, ErrorKind, Result as CoreResult};
use ublk_core::queue::{Event, Op, Outcome, Ticket, Wait};
use watch::Watch;

// Node's own libuv: the symbol is the executable's.
unsafe extern "C" {
    /// What a loop sleeps on. It has something to read when there is a message, or the thread is to end.
    fn uv_backend_fd(event_loop: *const sys::uv_loop_s) -> c_int;
}

/// `next` and `poll`: the queue has ended.
const ENDED: i32 = -1;
/// `next`: the thread's event loop has something to do.
const EVENTS: i32 = -2;

/// One of a device's queues, owned by the thread that made this.
#[napi]
pub struct Queue {
    // Dropped before the queue that it watches.
    watch: Option<Watch>,
    seated: Place,
    /// Whether `next` was called: then it listens to the event loop.
    blocking: bool,
    /// Whether that has something to do, which comes after the requests that are there.
    events: bool,
    /// The requests of the batch, by position.
    batch: Vec<Ticket>,
    shared: Shared,
    can_flush: bool,
}

#[napi]
impl Queue {
    /// Takes a seat: from here on this thread serves the queue. `can_flush`: whether flushes concern the backend.
    #[napi(constructor)]
    pub fn new(env: &Env, seat: u32, can_flush: bool) -> Result<Self> {
        Self::take(seat, can_flush).map_err(|error| raised(env, &error))
    }

    fn take(number: u32, can_flush: bool) -> CoreResult<Self> {
        let seat = seats::claim(number)
            .ok_or_else(|| CoreError::new(ErrorKind::NotFound, "there is no such seat, or it is taken"))?;
        let seated = seat.take(Vec::new())?;
        let depth = seated.buffers().depth();
        let shared = Shared::new(seated.buffers())?;
        Ok(Self {
            watch: None,
            seated: Place::new(seated),
            blocking: false,
            events: false,
            batch: Vec::with_capacity(depth.into()),
            shared,
            can_flush,
        })
    }

    /// Where what lies in `shared`.
    #[napi(getter)]
    pub fn layout(&self) -> SharedLayout {
        self.shared.layout
    }

    /// The memory that describes requests and takes results. To be asked for once.
    #[napi(ts_return_type = "ArrayBuffer")]
    pub fn shared<'env>(&self, env: &'env Env) -> Result<Unknown<'env>> {
        memory::array_buffer(env, self.shared.memory())
    }

    /// Every tag's data buffer, one after the other. To be asked for once.
    #[napi(ts_return_type = "ArrayBuffer")]
    pub fn data<'env>(&self, env: &'env Env) -> Result<Unknown<'env>> {
        match &*self.seated.borrow() {
            Some(seated) => memory::array_buffer(env, seated.buffers().pool()),
            None => Err(raised(env, &ended())),
        }
    }

    /// A mapping of shared memory for this thread. To be asked for once each.
    #[napi(ts_return_type = "ArrayBuffer")]
    pub fn memory<'env>(&self, env: &'env Env, id: u32) -> Result<Unknown<'env>> {
        let mapped = match &*self.seated.borrow() {
            Some(seated) => match seated.shared().by_id(id) {
                Some(memory) => memory.map_again(),
                None => Err(CoreError::new(ErrorKind::NotFound, "that memory is shared no more")),
            },
            None => Err(ended()),
        };
        memory::array_buffer(env, Arc::new(mapped.map_err(|error| raised(env, &error))?))
    }

    /// Answers the first `finished` requests of the batch with their results, submits all answers and waits for
    /// requests, in one system call. Returns how many came; 0: somebody woke it; -1: the queue has ended; -2: this
    /// thread's event loop has something to do, and the answers are submitted next time.
    #[napi]
    pub fn next(&mut self, env: &Env, finished: u32) -> Result<i32> {
        let event_loop = if self.blocking { None } else { Some(env.get_uv_event_loop()?) };
        self.run(env, |queue, seated| {
            if let Some(event_loop) = event_loop {
                queue.blocking = true;
                // SAFETY: this thread's loop, which lives as long as its environment.
                seated.listen(unsafe { uv_backend_fd(event_loop) })?;
            }
            queue.answer_batch(seated, finished as usize)?;
            if std::mem::take(&mut queue.events) {
                return Ok(EVENTS);
            }
            let count = queue.turn(seated, Wait::Forever)?;
            match (count, seated.heard()) {
                (0, true) => Ok(EVENTS),
                (_, heard) => {
                    queue.events = heard; // after these requests
                    Ok(count)
                }
            }
        })
    }

    /// As `next`, without answering the batch and without waiting.
    #[napi]
    pub fn poll(&mut self, env: &Env) -> Result<i32> {
        self.run(env, |queue, seated| queue.turn(seated, Wait::No))
    }

    /// Gives `count` answers, which the next turn submits. Returns how many of them were refused because their
    /// requests were answered before.
    #[napi]
    pub fn settle(&mut self, env: &Env, count: u32) -> Result<i32> {
        self.run(env, |queue, seated| {
            let mut refused = 0;
            for at in 0..count as usize {
                let (tag, generation, result) = queue.shared.answer(at);
                match seated.ticket(tag).filter(|ticket| ticket.generation == generation) {
                    Some(ticket) => answer(seated, ticket, result)?,
                    None => refused += 1,
                }
            }
            Ok(refused)
        })
    }

    /// Lets this thread's event loop call `on_ready` whenever there is something to `poll` for.
    #[napi]
    pub fn watch(&mut self, env: &Env, on_ready: Function<'_, (), ()>) -> Result<()> {
        let bell = match &mut *self.seated.borrow_mut() {
            Some(seated) => seated.listen_no_more().and_then(|()| seated.watch()),
            None => Err(ended()),
        };
        let bell = bell.map_err(|error| raised(env, &error))?;
        // What came before the bell was hung would never ring it.
        bell.wake();
        self.watch = Some(Watch::new(env, bell, &on_ready)?);
        Ok(())
    }

    /// Tells the device's owner of something that went wrong; the queue goes on.
    #[napi]
    pub fn report(&self, message: String) {
        if let Some(seated) = &*self.seated.borrow() {
            seated.report(message);
        }
    }

    /// Gives the queue up. What it has not answered fails, or is sent again to a successor.
    #[napi]
    pub fn leave(&mut self, why: String) {
        self.end(Some(&CoreError::new(ErrorKind::System, why)));
    }

    /// Runs something on the queue; whatever fails there ends it.
    fn run(
        &mut self,
        env: &Env,
        work: impl FnOnce(&mut Self, &mut Seated) -> CoreResult<i32>,
    ) -> Result<i32> {
        let Some(mut seated) = self.seated.take() else { return Ok(ENDED) };
        let done = work(self, &mut seated);
        self.seated.put_back(seated);
        match done {
            Ok(ENDED) => {
                self.end(None);
                Ok(ENDED)
            }
            Ok(count) => Ok(count),
            Err(error) => {
                self.end(Some(&error));
                Err(raised(env, &error))
            }
        }
    }

    fn answer_batch(&mut self, seated: &mut Seated, finished: usize) -> CoreResult<()> {
        for (at, ticket) in self.batch.drain(..).enumerate().take(finished) {
            answer(seated, ticket, self.shared.result(at))?;
        }
        Ok(())
    }

    /// Turns until there is something for JavaScript.
    fn turn(&mut self, seated: &mut Seated, wait: Wait) -> CoreResult<i32> {
        let mut looks = 0;
        loop {
            looks += 1;
            seated.turn(wait)?;
            self.fill(seated)?;
            if seated.settled() || seated.given_up() {
                return Ok(ENDED);
            }
            // The kernel may say that there is more when there is not: once more is enough to find what there is.
            let nothing_left = wait == Wait::No && (looks > 1 || !seated.pending());
            let called = seated.woken() || seated.heard();
            if !self.batch.is_empty() || called || nothing_left {
                return Ok(self.batch.len() as i32);
            }
        }
    }

    /// Describes what came. What concerns no backend is answered here.
    fn fill(&mut self, seated: &mut Seated) -> CoreResult<()> {
        self.batch.clear();
        let mut at = 0;
        while let Some(event) = seated.event(at) {
            at += 1;
            let Event::Request(ticket) = event else { continue };
            let what = seated.request(ticket).what;
            if let Err(error) = seated.load(ticket) {
                seated.commit(ticket, Err(error.raw_os_error().unwrap_or(5 /* EIO */)))?;
                continue;
            }
            let memory = match what.shared {
                None => (0, 0),
                Some(place) => match seated.shared().at(place, what.length as usize) {
                    Some(memory) => (memory.id(), place.offset),
                    None => {
                        seated.commit(ticket, Err(5 /* EIO */))?;
                        continue;
                    }
                },
            };
            let op = match what.op {
                Op::Read => 0,
                Op::Write => 1,
                Op::Flush if self.can_flush => 2,
                Op::Flush => {
                    seated.commit(ticket, Ok(0))?;
                    continue;
                }
                Op::Discard => 3,
                Op::WriteZeroes => 4,
                Op::Other(_) => {
                    seated.commit(ticket, Err(95 /* EOPNOTSUPP */))?;
                    continue;
                }
            };
            self.shared.put(
                self.batch.len(),
                &Entry {
                    offset: what.offset as f64,
                    length: what.length as f64,
                    result: if op <= 1 { what.length as i32 } else { 0 },
                    generation: ticket.generation,
                    tag: ticket.tag,
                    op,
                    flags: u8::from(what.fua) | (u8::from(what.no_unmap) << 1),
                    memory,
                },
            );
            self.batch.push(ticket);
        }
        Ok(())
    }

    fn end(&mut self, error: Option<&CoreError>) {
        self.watch = None;
        if let Some(seated) = self.seated.take() {
            match error {
                Some(error) => seated.fail(error),
                None => drop(seated),
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.end(Some(&gone()));
    }
}

/// Answers a request with a result from JavaScript, and a read with its buffer.
fn answer(seated: &mut Seated, ticket: Ticket, result: i32) -> CoreResult<()> {
    let moved = if result >= 0 { seated.store(ticket) } else { Ok(()) };
    let failed = |error: std::io::Error| error.raw_os_error().unwrap_or(5 /* EIO */);
    seated.commit(ticket, moved.map_err(failed).and_then(|()| outcome(result)))
}

fn outcome(result: i32) -> Outcome {
    u32::try_from(result).map_err(|_| result.saturating_neg())
}

/// Its thread has ended without a word: a Worker that was terminated, or ran out of memory.
fn gone() -> CoreError {
    CoreError::new(ErrorKind::System, "the thread that served it has ended")
}

fn ended() -> CoreError {
    CoreError::new(ErrorKind::Closed, "the queue has ended")
}
