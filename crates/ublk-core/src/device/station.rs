//! A queue that a thread of ours serves with a native engine.

use super::cpus::Cpus;
use super::engine_loop::{Ended, EngineLoop};
use super::seat::{Seat, Seated};
use crate::backend::{Backend, Site};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Completer, Queue, Wait};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// What a [`Station`] is made of, on its way to the thread that will have it.
pub struct Plan {
    pub seat: Seat,
    pub backend: Arc<dyn Backend>,
    /// As [`Site::durable`].
    pub durable: bool,
    /// Where a thread of its own is to run.
    pub cpus: Option<Cpus>,
}

/// See the [module](self).
pub struct Station {
    // Dropped in this order: who waits for the queue's end wants engine and backend free.
    engine: EngineLoop,
    seated: Seated,
    over: bool,
    /// Why the queue cannot be served any more.
    failure: Option<Error>,
}

impl Station {
    /// Takes the seat, on the thread that will serve it. When that fails, who starts the device has been told.
    pub fn open(plan: Plan) -> Option<Self> {
        let Plan { seat, backend, durable, .. } = plan;
        let completer = Completer::new(seat.waker());
        let (depth, max_io) = (seat.config.depth, seat.config.max_io);
        let mut site = Site::new(depth, max_io, durable, completer.clone(), seat.reporter());
        let engine = catch_unwind(AssertUnwindSafe(|| backend.engine(&mut site)))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Backend, "the backend panicked")));
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => {
                seat.decline(error);
                return None;
            }
        };
        let (files, operations) = site.needs();
        let seated = seat.take(files, operations).ok()?;
        let engine = EngineLoop::new(engine, completer);
        let mut station = Self { engine, seated, over: false, failure: None };
        // What came with the offers: a wake, perhaps.
        station.try_to(|engine, seated| {
            let (queue, hold) = seated.split();
            engine.work(queue, hold)
        });
        Some(station)
    }

    /// Serves what has come; where nothing has, sleeps as long as `wait` says. Never again once it [is over](Self::over).
    pub fn step(&mut self, wait: Wait) {
        self.try_to(|engine, seated| {
            let (queue, hold) = seated.split();
            engine.step(queue, wait, hold)
        });
    }

    /// Does something to the queue that only fails when it cannot be served any more.
    pub fn arrange(&mut self, what: impl FnOnce(&mut Queue) -> Result<()>) {
        self.try_to(|_, seated| what(seated).map(|()| None));
    }

    /// Whether its queue is to be left.
    pub fn over(&self) -> bool {
        self.over
    }

    /// Whether a step has something to do.
    pub fn due(&mut self) -> bool {
        self.over || self.seated.due() || self.engine.deadline().is_some_and(|until| Instant::now() >= until)
    }

    /// When it becomes due by itself.
    pub fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    /// Whether the last step found work.
    pub fn worked(&self) -> bool {
        self.seated.event(0).is_some()
    }

    /// Whether what its queue listens to has come before the last step.
    pub fn heard(&self) -> bool {
        self.seated.heard()
    }

    /// Leaves the queue: ring, mapping and the hold on `/dev/ublkcN` are gone when this returns. A panic of what the
    /// engine has to clean up harms nobody else.
    pub fn close(self) {
        let Self { engine, seated, failure, .. } = self;
        let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
        let _ = catch_unwind(AssertUnwindSafe(|| match failure {
            Some(error) => seated.fail(&error),
            None => drop(seated),
        }));
    }

    /// A failure or a panic costs this queue, and none that the same thread serves.
    fn try_to(&mut self, what: impl FnOnce(&mut EngineLoop, &mut Seated) -> Result<Option<Ended>>) {
        let (engine, seated) = (&mut self.engine, &mut self.seated);
        let done = catch_unwind(AssertUnwindSafe(|| what(engine, seated)))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::System, "the queue's thread panicked")));
        match done {
            Ok(ended) => self.over |= ended.is_some(),
            Err(error) => {
                // A second failure, while it was being left: nothing is left to try.
                let again = self.failure.is_some();
                self.failure.get_or_insert(error);
                self.over = again || self.engine.leave(&mut self.seated).unwrap_or(true);
            }
        }
    }
}
