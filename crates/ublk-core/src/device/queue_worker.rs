//! A queue that a native thread serves with a native engine.

use super::cpus::Cpus;
use super::engine_loop::{Ended, EngineLoop};
use super::pending_queue::{PendingQueue, ServedQueue};
use crate::backend::{Backend, Engine, Site, bounced};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Completer, Queue, Wait};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// What a [`QueueWorker`] is made of, on its way to the thread that will have it.
pub struct Plan {
    pub pending: PendingQueue,
    pub backend: Arc<dyn Backend>,
    /// As [`Site::durable`].
    pub durable: bool,
    /// Where a thread of its own is to run.
    pub cpus: Option<Cpus>,
}

/// A backend's engine, or why there is none.
pub fn engine_of(backend: Arc<dyn Backend>, site: &mut Site) -> Result<Box<dyn Engine>> {
    let bounces = !backend.is_external() && !backend.copy_modes().contains(&site.copy_mode());
    let make = || if bounces { bounced::engine(backend, site) } else { backend.engine(site) };
    catch_unwind(AssertUnwindSafe(make))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Backend, "the backend panicked")))
}

/// See the [module](self).
pub struct QueueWorker {
    // Dropped in this order: a thread that waits for the queue's end expects engine and backend to be free.
    engine: EngineLoop,
    served: ServedQueue,
    over: bool,
    /// Why the queue cannot be served any more.
    failure: Option<Error>,
}

impl QueueWorker {
    /// Takes the queue, on the thread that will serve it. If that fails, the start of the device fails with this error.
    pub fn open(plan: Plan) -> Option<Self> {
        let Plan { pending, backend, durable, .. } = plan;
        let completer = Completer::new(pending.waker());
        let (depth, max_io) = (pending.config.depth, pending.config.max_io);
        let site = Site::new(depth, max_io, durable, completer.clone(), pending.reporter());
        let mut site = site.of_device(pending.config.mode.copy, pending.stages());
        let engine = match engine_of(backend, &mut site) {
            Ok(engine) => engine,
            Err(error) => {
                pending.decline(error);
                return None;
            }
        };
        let served = pending.take(site.needs()).ok()?;
        let engine = EngineLoop::new(engine, completer);
        let mut worker = Self { engine, served, over: false, failure: None };
        // What came with the offers: a wake, perhaps.
        worker.try_to(|engine, served| {
            let (queue, hold) = served.split();
            engine.work(queue, hold)
        });
        Some(worker)
    }

    /// Serves what has arrived; sleeps for up to `wait` if nothing has. Must not be called once it [is over](Self::over).
    pub fn step(&mut self, wait: Wait) {
        self.try_to(|engine, served| {
            let (queue, hold) = served.split();
            engine.step(queue, wait, hold)
        });
    }

    /// Does something to the queue that only fails when it cannot be served any more.
    pub fn arrange(&mut self, what: impl FnOnce(&mut Queue) -> Result<()>) {
        self.try_to(|_, served| what(served).map(|()| None));
    }

    /// Whether its queue is to be left.
    pub fn over(&self) -> bool {
        self.over
    }

    /// Whether a step has something to do.
    pub fn due(&mut self) -> bool {
        self.over || self.served.due() || self.engine.deadline().is_some_and(|until| Instant::now() >= until)
    }

    /// When it has to run even if nothing arrives.
    pub fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    /// Whether the last step found work.
    pub fn worked(&self) -> bool {
        self.served.event(0).is_some()
    }

    /// Whether what its queue listens to has come before the last step.
    pub fn heard(&self) -> bool {
        self.served.heard()
    }

    /// Leaves the queue: ring, mapping and the hold on `/dev/ublkcN` are gone when this returns. A panic of what the
    /// engine has to clean up harms nobody else.
    pub fn close(self) {
        let Self { engine, served, failure, .. } = self;
        let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
        let _ = catch_unwind(AssertUnwindSafe(|| match failure {
            Some(error) => served.fail(&error),
            None => drop(served),
        }));
    }

    /// A failure or a panic costs this queue, and none that the same thread serves.
    fn try_to(&mut self, what: impl FnOnce(&mut EngineLoop, &mut ServedQueue) -> Result<Option<Ended>>) {
        let (engine, served) = (&mut self.engine, &mut self.served);
        let done = catch_unwind(AssertUnwindSafe(|| what(engine, served)))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::System, "the queue's thread panicked")));
        match done {
            Ok(ended) => self.over |= ended.is_some(),
            Err(error) => {
                // A second failure, while it was being left: nothing is left to try.
                let again = self.failure.is_some();
                self.failure.get_or_insert(error);
                self.over = again || self.engine.leave(&mut self.served).unwrap_or(true);
            }
        }
    }
}
