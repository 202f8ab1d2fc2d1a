//! A queue that a thread of ours serves with a native engine.

use super::cpus::Cpus;
use super::seat::{Seat, Seated};
use crate::backend::{Backend, Engine, Site};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::drive::{Driver, Ended};
use crate::queue::{Queue, Wait};
use std::os::fd::AsRawFd;
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
    // Dropped in this order: the engine borrows from the backend, and who waits for the queue's end wants both free.
    driver: Driver<'static>,
    _backend: Arc<dyn Backend>,
    seated: Seated,
    over: bool,
    /// Why the queue cannot be served any more.
    failure: Option<Error>,
}

impl Station {
    /// Takes the seat, on the thread that will serve it. When that fails, who starts the device has been told.
    pub fn open(plan: Plan) -> Option<Self> {
        let Plan { seat, backend, durable, .. } = plan;
        let files = backend.files().iter().map(AsRawFd::as_raw_fd).collect();
        let (waker, reporter) = (seat.waker(), seat.reporter());
        let site = Site { depth: seat.config.depth, durable, waker, reporter };
        let engine = catch_unwind(AssertUnwindSafe(|| engine_of(&backend, &site)))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Backend, "the backend panicked")));
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => {
                seat.decline(error);
                return None;
            }
        };
        let seated = seat.take(files).ok()?;
        let driver = Driver::new(engine);
        let mut station = Self { driver, _backend: backend, seated, over: false, failure: None };
        // What came with the offers: a wake, perhaps.
        station.try_to(|driver, seated| {
            let (queue, hold) = seated.split();
            driver.work(queue, hold)
        });
        Some(station)
    }

    /// Serves what has come; where nothing has, sleeps as long as `wait` says. Never again once it [is over](Self::over).
    pub fn step(&mut self, wait: Wait) {
        self.try_to(|driver, seated| {
            let (queue, hold) = seated.split();
            driver.step(queue, wait, hold)
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
        self.over || self.seated.due() || self.driver.deadline().is_some_and(|until| Instant::now() >= until)
    }

    /// When it becomes due by itself.
    pub fn deadline(&self) -> Option<Instant> {
        self.driver.deadline()
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
        let Self { driver, _backend, seated, failure, .. } = self;
        let _ = catch_unwind(AssertUnwindSafe(|| drop((driver, _backend))));
        let _ = catch_unwind(AssertUnwindSafe(|| match failure {
            Some(error) => seated.fail(&error),
            None => drop(seated),
        }));
    }

    /// A failure or a panic costs this queue, and none that the same thread serves.
    fn try_to(&mut self, what: impl FnOnce(&mut Driver<'static>, &mut Seated) -> Result<Option<Ended>>) {
        let (driver, seated) = (&mut self.driver, &mut self.seated);
        let done = catch_unwind(AssertUnwindSafe(|| what(driver, seated)))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::System, "the queue's thread panicked")));
        match done {
            Ok(ended) => self.over |= ended.is_some(),
            Err(error) => {
                // A second failure, while it was being left: nothing is left to try.
                let again = self.failure.is_some();
                self.failure.get_or_insert(error);
                self.over = again || self.driver.leave(&mut self.seated).unwrap_or(true);
            }
        }
    }
}

/// An engine that lives as long as its backend.
fn engine_of(backend: &Arc<dyn Backend>, site: &Site) -> Result<Box<dyn Engine>> {
    let pinned = Arc::as_ptr(backend);
    // SAFETY: what an Arc holds stays where it is while the Arc lives. The station keeps it for longer than the
    // engine (field order, and close()); open() drops an engine that comes to no station before its Arc.
    unsafe { &*pinned }.engine(site)
}
