//! A device's queues while it is served, by native threads or by other threads that took them.

use super::binding::Binding;
use super::change::Change;
use super::engine_loop::Between;
use super::pending_queue::{PendingQueue, ServedGuard};
use super::readiness::Readiness;
use super::scheduler;
use super::{Device, Event, Listener};
use crate::backend::{Backend, Stage, Stages};
use crate::bound::Bound;
use crate::claim::Claims;
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Config, TagShare, ThreadCommon, Waker};
use crate::report::Reporter;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long the queues may take to end once the driver has stopped the device.
const PATIENCE: Duration = Duration::from_secs(10);

/// The queues of a device that is coming alive, alive, or ending.
pub struct Serving {
    shared: Arc<ServingState>,
    /// Disconnects when every queue has ended.
    ended: Receiver<()>,
    /// Changes to the disk that are still in progress.
    changes: Vec<Change>,
    /// The claim on the backend's files, while a queue has it.
    claims: Weak<Mutex<Claims>>,
    /// Of each queue, by which it gets another engine.
    bindings: Vec<Arc<Binding>>,
}

/// What the queues share.
pub struct ServingState {
    /// The device's number.
    pub id: u32,
    target: Target,
    /// Its disk outlives its queues, which others can take over.
    recoverable: bool,
    listener: Listener,
    control: Control,
    /// How many queues are taken and have not ended.
    running: AtomicU32,
    /// Of the disk: layers that make requests wait are told.
    pub stages: Stages,
    /// Wakes the threads that took them.
    wakers: Vec<Waker>,
    /// Set if the queues must leave their rings, even with requests in flight.
    given_up: AtomicBool,
    /// Set if the queues must answer their requests, and leave all further ones to the next server.
    hands_over: Arc<AtomicBool>,
    /// Set if the owner has asked to end.
    expected: AtomicBool,
    /// The end was reported.
    told: AtomicBool,
    /// Why a queue failed.
    failure: Mutex<Option<String>>,
}

impl Serving {
    /// Every queue, to be taken by the thread that will serve it, and what hears of that.
    ///
    /// The claims end with the last queue.
    pub fn prepare(
        device: &Device,
        char_dev: OwnedFd,
        claims: Claims,
    ) -> Result<(Self, Readiness, Vec<PendingQueue>)> {
        let of = u16::try_from(device.wishes.threads_per_queue).unwrap_or(u16::MAX); // at most 64
        let places: Vec<_> = (0..device.queues)
            .flat_map(|queue| (0..of).map(move |index| (queue, TagShare { index, of })))
            .collect();
        let wakers = places.iter().map(|_| Waker::new()).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(ServingState {
            id: device.id,
            target: device.target,
            recoverable: device.recovery.is_some(),
            listener: device.listener.clone(),
            control: device.control.clone(),
            running: AtomicU32::new(0),
            stages: Stages::at(Stage::Appearing),
            wakers,
            given_up: AtomicBool::new(false),
            hands_over: Arc::default(),
            expected: AtomicBool::new(false),
            told: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let common: Vec<_> = (0..device.queues).map(|_| ThreadCommon::default()).collect();
        let (char_dev, claims) = (Arc::new(char_dev), Arc::new(Mutex::new(claims)));
        let bindings: Vec<_> = places.iter().map(|_| Arc::<Binding>::default()).collect();
        let (readiness, answers) = Readiness::of(device.id, places.len())?;
        let (last, ended) = sync_channel(0);
        let pending = places
            .into_iter()
            .zip(answers)
            .enumerate()
            .map(|(at, ((index, part), ready))| PendingQueue {
                char_dev: char_dev.clone(),
                config: Config {
                    index,
                    depth: device.depth,
                    part,
                    common: common[usize::from(index)].clone(),
                    max_io: device.max_io,
                    pages: device.wishes.buffers,
                    mode: device.choice.mode,
                    #[cfg(feature = "testing")]
                    only_by_hand: false,
                    shared: device.shared.clone(),
                    poll: device.wishes.poll,
                    counters: device.counters[at].clone(),
                    tracer: device.tracer.clone(),
                    waker: shared.wakers[at].clone(),
                    hands_over: shared.hands_over.clone(),
                },
                ready,
                hold: ServedGuard {
                    shared: shared.clone(),
                    index,
                    error: None,
                    running: false,
                    claims: claims.clone(),
                    binding: bindings[at].clone(),
                    last: last.clone(),
                },
            })
            .collect();
        let claims = Arc::downgrade(&claims);
        Ok((Self { shared, ended, changes: Vec::new(), claims, bindings }, readiness, pending))
    }

    /// The disk has appeared: brings it into the state it is to have, without a wait.
    pub fn settle_later(mut self, id: u32, queues: u16) -> Self {
        // The kernel gives a disk of several queues no scheduler.
        self.changes.extend((queues == 1).then(|| scheduler::take_away(id)).flatten());
        self
    }

    /// Another change is in progress.
    pub fn changing(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Waits for the changes that are in progress.
    pub fn settle(&self) {
        self.changes.iter().for_each(Change::wait);
    }

    /// Has each queue served by an engine of this backend from now on, which `claims` are for. If that fails, some of the
    /// queues may be served by it already.
    pub fn bind(
        &self,
        device: &Device,
        backend: Arc<dyn Backend>,
        claims: Claims,
        patience: Duration,
    ) -> Result<()> {
        let descriptors: Arc<[_]> = claims.descriptors().collect();
        self.hold_claims(claims)?;
        let new = self.shared.new_backend(device, backend, descriptors);
        let queues = self.queues();
        let bound = queues.each(patience, move |turn: &mut Between<'_>| {
            new.engine(turn).map(|engine| *turn.engine = engine)
        })?;
        bound.into_iter().collect()
    }

    /// These claims are held from now on as long as the queues are served, instead of those before.
    pub fn hold_claims(&self, claims: Claims) -> Result<()> {
        let held = self.claims.upgrade().ok_or_else(|| {
            Error::new(ErrorKind::Closed, "the device's queues have ended").device(self.shared.id)
        })?;
        let before = std::mem::replace(&mut *held.lock().unwrap_or_else(PoisonError::into_inner), claims);
        drop(held); // before the queues end, if they do
        drop(before);
        Ok(())
    }

    /// The queues, to be asked for something between two requests.
    pub fn queues(&self) -> AskQueues {
        AskQueues { shared: self.shared.clone(), bindings: self.bindings.clone() }
    }

    /// The disk enters a stage of its life.
    pub fn enter(&self, stage: Stage) {
        self.shared.stages.enter(stage);
    }

    /// The claim on the backend's files, while a queue has it.
    pub fn claims(&self) -> &Weak<Mutex<Claims>> {
        &self.claims
    }

    /// An end is nothing to report from now on.
    pub fn expect_end(&self) {
        self.shared.expected.store(true, Ordering::SeqCst);
    }

    /// It was not ended after all. If it has ended nevertheless, that is reported.
    pub fn expect_no_end(&self) {
        self.shared.expected.store(false, Ordering::SeqCst);
        self.shared.tell_end();
    }

    /// A stop was given up, which the driver goes on with: the end may come yet.
    pub fn may_end_yet(&self) {
        self.enter(Stage::Ending);
        let id = self.shared.id;
        let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| format!("device {id} ended: a stop that was given up took effect"));
        drop(failure);
        self.expect_no_end();
    }

    /// Whether every queue has ended.
    pub fn over(&self) -> bool {
        self.shared.running.load(Ordering::SeqCst) == 0
    }

    /// Has the queues answer the requests that they have, leave all others to the next server, and end.
    pub fn hand_over(&self) {
        self.shared.hands_over.store(true, Ordering::SeqCst);
        self.shared.wakers.iter().for_each(Waker::wake);
    }

    /// Waits for the queues, at most for this time.
    pub fn wait(&self, timeout: Duration) {
        let _ = self.ended.recv_timeout(timeout); // nothing is ever sent: they end, or the time
    }

    /// Waits for the queues, which end when the device is stopped. Those that do not end are woken to leave their rings; those
    /// that still do not end are abandoned.
    pub fn join(self) -> Result<()> {
        for last_call in [false, true] {
            if last_call {
                self.shared.give_up();
            }
            if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected) {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Timeout, "the queues' threads did not end").device(self.shared.id))
    }

    /// Ends the queues of a device that does not come alive.
    pub fn abandon(self) {
        self.expect_end();
        // The driver gives every tag back, also of a device that never was alive. What fails here leaves
        // nothing else to try, and the failure that led here is the one to tell.
        let _ = self.shared.control.stop(self.shared.target, &Bound::standard());
        let _ = self.join();
    }

    /// Ends the queues of a device whose disk stays for another server, and that have not come to an end.
    pub fn leave(self) {
        self.expect_end();
        self.shared.give_up();
        let _ = self.join(); // what does not end now is left to itself
    }
}

/// See [`Serving::queues`].
#[derive(Clone)]
pub struct AskQueues {
    pub shared: Arc<ServingState>,
    bindings: Vec<Arc<Binding>>,
}

impl AskQueues {
    /// Has each queue do something on its thread between two requests, and returns what all of them answer.
    pub fn each<T: Send + 'static>(
        &self,
        patience: Duration,
        what: impl FnOnce(&mut Between<'_>) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>> {
        let ask = |(binding, waker): (&Arc<Binding>, &Waker)| {
            let answer = binding.ask(what.clone());
            waker.wake();
            answer
        };
        let asked: Vec<_> = self.bindings.iter().zip(&self.shared.wakers).map(ask).collect();
        let until = Instant::now() + patience;
        let answers = asked.into_iter().map(|answer| {
            let left = until.saturating_duration_since(Instant::now());
            answer.recv_timeout(left).map_err(|error| {
                let (kind, message) = match error {
                    RecvTimeoutError::Timeout => {
                        (ErrorKind::Timeout, "a queue of the device does not answer")
                    }
                    RecvTimeoutError::Disconnected => (ErrorKind::Closed, "a queue of the device has ended"),
                };
                Error::new(kind, message).device(self.shared.id)
            })
        });
        answers.collect()
    }
}

impl ServingState {
    /// Reports errors outside the queues to the owner, even after the queues have ended.
    pub fn reporter(&self) -> Reporter {
        super::reporter(&self.listener)
    }

    /// Reports a failure in a queue to the owner.
    pub fn report(&self, queue: u16, message: String) {
        self.tell(Event::Error { queue: Some(queue), message });
    }

    /// A listener that panics costs its event, not the queue that had something to tell.
    fn tell(&self, event: Event) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.listener)(event)));
    }

    /// Makes every queue leave its ring.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Whether the queues are to leave.
    pub fn given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    /// A queue was started.
    pub fn started(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
    }

    /// A queue has ended. `last` is kept until all that comes with it is done.
    pub fn ended(self: &Arc<Self>, index: u16, error: Option<Error>, last: &SyncSender<()>) {
        let Some(error) = error else { return self.left() };
        let message = format!("queue {index} failed: {error}");
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| message.clone());
        drop(failure);
        if !self.expected.load(Ordering::SeqCst) {
            self.report(index, message);
        }
        // Without this queue the disk would hang. Once every queue is free, the driver fails the requests that it had, or keeps
        // them for the next server; only then can the device be stopped.
        self.give_up();
        if self.recoverable {
            return self.left();
        }
        // It waits for the device's other queues, which the calling thread may serve.
        let (shared, last) = (self.clone(), last.clone());
        let stop = move || {
            let _ = shared.control.stop(shared.target, &Bound::standard());
            shared.left();
            drop(last);
        };
        if std::thread::Builder::new().name("ublk-stop".into()).stack_size(256 << 10).spawn(stop).is_err() {
            self.left(); // the driver stops a device without a server itself, somewhat later
        }
    }

    /// A queue, and what came with its end, is over.
    fn left(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.tell_end();
    }

    /// Reports the end, if all queues have ended and nobody asked for that.
    fn tell_end(&self) {
        let over = self.running.load(Ordering::SeqCst) == 0;
        if over && !self.expected.load(Ordering::SeqCst) && !self.told.swap(true, Ordering::SeqCst) {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            let message =
                failure.unwrap_or_else(|| format!("device {} was stopped by another process", self.id));
            self.tell(Event::Exit { message });
        }
    }
}
