//! A device that this process serves, from ADD_DEV to DEL_DEV.
//!
//! ```text
//!  create ──► created ──start──► live ──stop──► stopped ──delete──► deleted
//!                 ▲              ▲  │             │
//!                 └──────────────│──│──start──────┘        delete is possible anywhere
//!                         recover│  │quiesce, or its queues failed
//!   adopt ───────────────────► waiting ──release──► another process's       so is leave, of a recoverable device
//! ```

mod again;
mod bind;
mod binding;
mod change;
mod claiming;
mod cpus;
mod create;
mod end;
pub(crate) mod engine_loop;
mod last_server;
mod layers;
mod moving;
mod pending_queue;
mod queue_worker;
mod readiness;
mod resize;
mod round_robin;
mod scheduler;
mod serving;
mod sharing;
mod start;
mod state;
mod take_over;
mod threads;

pub use crate::choice::Choice;
pub use create::usual_choices;
pub use pending_queue::{PendingQueue, ServedQueue};

use crate::abi::sys;
use crate::backend::{Backend, Changes};
use crate::bound::Bound;
use crate::claim::{Claims, FileId};
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::features::Features;
use crate::nodes;
use crate::queue::ClientMemories;
use crate::report::{Report, Reporter};
use crate::spec::{Checked, Recovery, Spec};
use crate::telemetry::{QueueCounters, Tracer, clock};
use state::{Identity, State};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a device reports to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Something failed; the device may continue.
    Error {
        /// The queue's number, if it concerns one.
        queue: Option<u16>,
        /// One line.
        message: String,
    },
    /// Somebody else has opened what the disk is in: its requests fail from now on.
    Fenced {
        /// One line that says who.
        message: String,
    },
    /// Serving the device has ended without a request of its owner.
    Exit {
        /// One line that says why.
        message: String,
    },
}

/// Takes a device's events, on any thread.
pub type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// See the [module](self).
pub struct Device {
    id: u32,
    target: Target,
    control: Control,
    /// Until the device is deleted: its handle may be kept for long after that.
    backend: Mutex<Option<Arc<dyn Backend>>>,
    /// Its size changes only with the state locked.
    checked: Mutex<Checked>,
    durable: bool,
    /// For an adopted device, only the options of serving apply.
    wishes: Spec,
    recovery: Option<Recovery>,
    /// The driver features that it was created with.
    flags: Features,
    queues: u16,
    depth: u16,
    max_io: u32,
    choice: Choice,
    shared: Arc<ClientMemories>,
    counters: Box<[Arc<QueueCounters>]>,
    tracer: Arc<Tracer>,
    listener: Listener,
    state: Mutex<State>,
    /// Changed only with the state locked.
    identity: Mutex<Identity>,
    /// It is getting another backend.
    moving: Mutex<Option<Arc<moving::Moving>>>,
    /// Adopted, and not yet kept.
    guest: AtomicBool,
}

impl Device {
    /// Sets the options with which it is served from its next start on; nothing else knows those of an adopted device. Options
    /// of the disk itself have no effect.
    pub fn served_as(mut self, wishes: &Spec) -> Result<Self> {
        threads::check(wishes, self.choice.mode, self.flags)?;
        self.counters = counters_of(self.queues, wishes)?;
        self.wishes = wishes.clone();
        Ok(self)
    }

    fn new(
        control: Control,
        info: &sys::ublksrv_ctrl_dev_info,
        checked: Checked,
        max_io: u32,
        backend: Arc<dyn Backend>,
        listener: Listener,
        state: State,
    ) -> Result<Self> {
        let counters = counters_of(info.nr_hw_queues, &checked.spec)?;
        clock(); // by the time that somebody asks how long its ticks are, it is known well
        Ok(Self {
            id: info.dev_id,
            target: Target::of(info),
            control,
            backend: Mutex::new(Some(backend)),
            durable: !checked.disk.write_cache,
            wishes: checked.spec.clone(),
            recovery: checked.spec.recovery,
            flags: Features(info.flags),
            choice: checked.choice.clone(),
            shared: Arc::new(ClientMemories::new(reporter(&listener))),
            checked: Mutex::new(checked),
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            max_io,
            counters,
            tracer: Arc::default(),
            listener,
            state: Mutex::new(state),
            identity: Mutex::new(nodes::identity(info.dev_id)),
            moving: Mutex::default(),
            guest: AtomicBool::new(false),
        })
    }

    /// The driver's number for it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its transport and copy mode, and why they were chosen.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The counters of each queue, by its number: one for each of its threads.
    pub fn counters_by_queue(&self) -> std::slice::Chunks<'_, Arc<QueueCounters>> {
        self.counters.chunks(self.wishes.threads_per_queue as usize)
    }

    /// All of them, in the same order.
    pub fn counters(&self) -> &[Arc<QueueCounters>] {
        &self.counters
    }

    /// The listeners that get each request.
    pub fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    /// Claims the backend's files of a disk of `size` bytes before anything is changed. Queues share the claim, so that it lasts
    /// as long as the queues.
    fn claim(&self, size: u64, patience: Duration) -> Result<Claims> {
        claiming::claim(&*self.backend()?, size, patience).map_err(|error| error.device(self.id))
    }

    /// The identity of the files that hold the disk's data, as they were opened.
    pub fn files(&self) -> Result<Vec<FileId>> {
        self.backend()?.places().iter().map(FileId::of).collect()
    }

    /// Asks for the disk's checkpoints and what was changed since.
    pub fn with_changes<T>(&self, ask: impl FnOnce(&dyn Changes) -> Result<T>) -> Result<T> {
        let backend = self.backend()?;
        let changes = backend.changes().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "the disk does not record its changes")
                .hint(Hint::from("create it with a change map").by(Remedy::Track))
        });
        changes.and_then(ask).map_err(|error| error.device(self.id))
    }

    fn backend(&self) -> Result<Arc<dyn Backend>> {
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner).clone();
        backend.ok_or_else(|| self.gone(&State::Deleted))
    }
}

/// Reports errors outside the queues to a listener.
fn reporter(listener: &Listener) -> Reporter {
    let listener = listener.clone();
    Reporter::telling(move |report| {
        listener(match report {
            Report::Error(message) => Event::Error { queue: None, message },
            Report::Fenced(message) => Event::Fenced { message },
        });
    })
}

/// For each of the threads.
fn counters_of(queues: u16, wishes: &Spec) -> Result<Box<[Arc<QueueCounters>]>> {
    let threads = u32::from(queues) * wishes.threads_per_queue;
    (0..threads).map(|_| QueueCounters::new().map(Arc::new)).collect()
}

impl Drop for Device {
    fn drop(&mut self) {
        // Otherwise a device that no process can reach would stay forever.
        let _ = self.abandon(false, &Bound::standard());
        self.tracer.close();
    }
}
