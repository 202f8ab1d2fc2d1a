//! A queue that a JavaScript thread owns: a Worker that blocks in `nextBatch`, or an event loop that watches.

mod layout;
mod memory;
mod pending;
mod place;
mod served;
mod uv;
mod watch;

pub use pending::{Offer, hand_out};
pub use place::leave_all;

use crate::number::whole;
use crate::task::raised;
use crate::wire::BATCH_ENDED as ENDED;
use layout::SharedLayout;
use napi::bindgen_prelude::{Function, Unknown};
use napi::{Env, Result};
use napi_derive::napi;
use place::Place;
use served::Served;
use ublk_core::error::{Error as CoreError, ErrorKind, Result as CoreResult};
use ublk_core::queue::{Needs, Wait};
use watch::Watch;

/// The operations of a backend. It gets no others: a backend that takes a device over may support fewer than the one
/// that created it.
#[napi(object)]
#[derive(Clone, Copy)]
pub struct Abilities {
    /// It writes.
    pub write: bool,
    /// It has a cache; without one there is nothing to flush.
    pub flush: bool,
    /// It discards.
    pub discard: bool,
    /// It writes zeroes.
    pub write_zeroes: bool,
}

/// One of a device's queues, owned by the thread that made this.
#[napi]
pub struct Queue(Place);

#[napi]
impl Queue {
    /// Takes a pending queue, by its number: from here on this thread serves the queue. `able`: the operations of the backend.
    #[napi(constructor)]
    pub fn new(env: &Env, number: f64, able: Abilities) -> Result<Self> {
        let served = Self::take(number, able).map_err(|error| raised(env, &error))?;
        Ok(Self(Place::new(served)))
    }

    fn take(number: f64, able: Abilities) -> CoreResult<Served> {
        let queue = pending::claim(whole("seat", number)?)
            .ok_or_else(|| CoreError::new(ErrorKind::NotFound, "there is no such queue, or it is taken"))?;
        Served::new(queue.take(Needs::default())?, able)
    }

    /// What names it to `nextBatch`, on this thread.
    #[napi(getter)]
    pub fn number(&self) -> u32 {
        self.0.number()
    }

    /// Where what lies in `shared`.
    #[napi(getter)]
    pub fn layout(&self, env: &Env) -> Result<SharedLayout> {
        self.look(env, |served| Ok(served.shared.layout))
    }

    /// The memory that describes requests and takes results. To be asked for once.
    #[napi(ts_return_type = "ArrayBuffer")]
    pub fn shared<'env>(&self, env: &'env Env) -> Result<Unknown<'env>> {
        memory::array_buffer(env, self.look(env, |served| Ok(served.shared.memory()))?)
    }

    /// Every tag's data buffer, one after the other. To be asked for once.
    #[napi(ts_return_type = "ArrayBuffer")]
    pub fn data<'env>(&self, env: &'env Env) -> Result<Unknown<'env>> {
        memory::array_buffer(env, self.look(env, |served| Ok(served.queue.buffers().pool()))?)
    }

    /// As `nextBatch`, without answering the batch and without waiting.
    #[napi]
    pub fn poll(&self, env: &Env) -> Result<i32> {
        run(env, &self.0, |served| served.turn(Wait::No))
    }

    /// Gives `count` answers, which the next turn submits. Returns how many of them were refused because their
    /// requests were answered before.
    #[napi]
    pub fn settle(&self, env: &Env, count: f64) -> Result<i32> {
        run(env, &self.0, |served| served.settle(whole("count", count)?))
    }

    /// Lets this thread's event loop call `on_ready` whenever there is something to `poll` for.
    #[napi]
    pub fn watch(&self, env: &Env, on_ready: Function<'_, (), ()>) -> Result<()> {
        let mut place = self.0.borrow_mut();
        let served = place.as_mut().ok_or_else(|| raised(env, &ended()))?;
        let queue = &mut served.queue;
        let bell = queue.listen_no_more().and_then(|()| queue.watch());
        let bell = bell.map_err(|error| raised(env, &error))?;
        // What came before the bell was hung would never ring it.
        bell.wake();
        served.watch = Some(Watch::new(env, bell, &on_ready)?);
        Ok(())
    }

    /// Tells the device's owner of something that went wrong; the queue goes on.
    #[napi]
    pub fn report(&self, message: String) {
        if let Some(served) = &*self.0.borrow() {
            served.queue.report(message);
        }
    }

    /// Gives the queue up. What it has not answered fails, or is sent again to a successor.
    #[napi]
    pub fn leave(&self, why: String) {
        self.end(&CoreError::new(ErrorKind::System, why));
    }

    /// What something of the queue is, while it is served.
    fn look<T>(&self, env: &Env, at: impl FnOnce(&Served) -> CoreResult<T>) -> Result<T> {
        let found = self.0.borrow().as_ref().map_or_else(|| Err(ended()), |served| at(served));
        found.map_err(|error| raised(env, &error))
    }

    fn end(&self, error: &CoreError) {
        if let Some(served) = self.0.take() {
            served.end(Some(error));
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.end(&gone());
    }
}

/// Answers the first `finished` requests of the batch of a queue of this thread with their results, submits all answers
/// and waits for requests, in one system call. Returns how many came; 0: somebody woke it; -1: the queue has ended; -2:
/// this thread's event loop has something to do, and the answers are submitted next time.
///
/// Not a method: for each call of a method, napi-rs checks the object's class, and records under a process-wide lock that it is
/// borrowed.
#[napi]
pub fn next_batch(env: &Env, queue: f64, finished: f64) -> Result<i32> {
    let queue = whole("queue", queue).map_err(|error| raised(env, &error))?;
    let Some(place) = Place::of(queue) else { return Ok(ENDED) };
    run(env, &place, |served| {
        if !served.listens {
            let event_loop = env.get_uv_event_loop().map_err(|error| {
                CoreError::new(ErrorKind::System, format!("this thread has no event loop: {error}"))
            })?;
            let uv =
                uv::uv().map_err(|error| CoreError::new(ErrorKind::Unsupported, error.reason.clone()))?;
            // SAFETY: this thread's loop, which lives as long as its environment.
            served.queue.listen(unsafe { (uv.backend_fd)(event_loop) })?;
            served.listens = true;
        }
        served.next(whole("finished", finished)?)
    })
}

/// Runs something on a queue; whatever fails there ends it.
fn run(env: &Env, place: &Place, work: impl FnOnce(&mut Served) -> CoreResult<i32>) -> Result<i32> {
    let Some(mut served) = place.take() else { return Ok(ENDED) };
    match work(&mut served) {
        Ok(ENDED) => {
            served.end(None);
            Ok(ENDED)
        }
        Ok(count) => {
            place.put_back(served);
            Ok(count)
        }
        Err(error) => {
            served.end(Some(&error));
            Err(raised(env, &error))
        }
    }
}

/// Its thread has ended without a word: a Worker that was terminated, or ran out of memory.
fn gone() -> CoreError {
    CoreError::new(ErrorKind::System, "the thread that served it has ended")
}

fn ended() -> CoreError {
    CoreError::new(ErrorKind::Closed, "the queue has ended")
}
