//! A device that this process serves, from ADD_DEV to DEL_DEV.
//!
//! ```text
//!  create ──► created ──start──► live ──stop──► stopped ──delete──► deleted
//!                 ▲              ▲  │             │
//!                 └──────────────│──│──start──────┘        delete is possible anywhere
//!                         recover│  │quiesce, or its queues failed
//!   adopt ───────────────────► waiting ──release──► another process's       so is leave, of a recoverable device
//! ```

mod cpus;
pub(crate) mod engine_loop;
mod last_server;
mod pending_queue;
mod queue_worker;
mod readiness;
mod round_robin;
mod scheduler;
mod serving;
mod sharing;
mod take_over;
mod threads;

pub use crate::choice::Choice;
pub use pending_queue::{PendingQueue, ServedQueue};

use crate::abi::{Params, sys};
use crate::backend::Backend;
use crate::choice::{self, Offer};

use crate::bound::Bound;
use crate::claim::{Claims, FileId};
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::nodes::{self, Kind};
use crate::queue::{ClientMemories, CopyMode};
use crate::registry;
use crate::report::Reporter;
use crate::spec::{Checked, Recovery, Spec, Threads};
use crate::telemetry::{QueueCounters, Tracer, clock};
use cpus::Cpus;
use queue_worker::Plan;
use serving::Serving;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Adopted, and not yet kept.
    guest: AtomicBool,
}

enum State {
    /// `used`: it was served before.
    Idle {
        used: bool,
    },
    Live(Serving),
    /// The driver keeps its disk, and this process does not serve it. This process or another one can take it over.
    Waiting,
    Deleted,
    /// Another process serves it.
    Released,
}

/// How long the last server of the backend's files may take to release them, such as one that was just killed.
const LEAVING: Duration = Duration::from_millis(250);

/// Distinguishes it from other devices with its number, if sysfs is available.
type Identity = Option<u64>;

impl Device {
    /// Adds a device to the driver. The disk appears with [`start`](Self::start).
    ///
    /// Nothing is left behind when it fails.
    pub fn create(spec: &Spec, backend: Arc<dyn Backend>, bound: &Bound, listener: Listener) -> Result<Self> {
        let mut checked = spec.check(&backend.properties())?;
        let control = Control::open()?;
        let able = backend.copy_modes();
        let offer = Offer {
            features: control.features(bound).unwrap_or_default(), // drivers before 6.5 do not tell
            able: &able,
            trusted: choice::trusted(),
        };
        checked.choice = Choice::make(spec.transport, spec.copy, &offer)?;
        threads::check(spec, checked.choice.mode, offer.features)?;
        let info = add(&control, &checked, &checked.info(), bound)?;
        let max_io = info.max_io_buf_bytes.min(spec.max_io);
        let spare = control.clone();
        let state = State::Idle { used: false };
        Self::new(control, &info, checked, max_io, backend, listener, state).inspect_err(|_| {
            // Report the first failure.
            let _ = spare.delete(Target::of(&info), &Bound::standard());
        })
    }

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
            durable: !checked.write_cache,
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

    /// Makes the disk appear, served by the backend's engines on [`Spec::threads`]; returns when its node is there.
    /// Possible again after [`stop`](Self::stop).
    ///
    /// When it fails, the device is as it was before.
    pub fn start(&self, bound: &Bound) -> Result<()> {
        self.start_with(bound, |pending| self.spawn(pending, bound))
    }

    /// As [`start`](Self::start), with the queues served by the threads that take the queues `hand_out` is given.
    /// They have to be taken within the bound. What it returns is kept until then, and dropped first when that
    /// fails: it can withdraw queues that nobody has taken.
    pub fn start_with<G>(
        &self,
        bound: &Bound,
        hand_out: impl FnOnce(Vec<PendingQueue>) -> Result<G>,
    ) -> Result<()> {
        let mut state = self.idle()?;
        let claims = self.claim(LEAVING)?;
        if matches!(*state, State::Idle { used: true }) {
            self.refresh(&mut state, bound)?;
        }
        *state = State::Idle { used: true };
        let char_dev = nodes::open_server_node(self.id, bound)?;
        let serving = self.serve_queues(char_dev, claims, bound, hand_out, Serving::abandon, |bound| {
            self.control.start(self.target, bound)?;
            self.wait_for_disk(bound)?;
            wait_for_access(self.target, Kind::Disk, bound)
        });
        *state = State::Live(serving?.settle_later(self.id, self.queues));
        Ok(())
    }

    /// Changes the disk's size in bytes, while it is in use. Data beyond a smaller size is lost.
    pub fn resize(&self, size: u64, bound: &Bound) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        if !matches!(*state, State::Live(_)) {
            return Err(self.not_live(&state));
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.check_size(size)?;
        if !self.flags.has(sys::UBLK_F_UPDATE_SIZE.into()) {
            return Err(Error::new(ErrorKind::Unsupported, "this kernel cannot resize a device")
                .hint("Linux 6.16 or newer can")
                .device(self.id));
        }
        let backend = self.backend()?;
        let before = checked.size();
        // The disk never has more than its backend.
        if size > before {
            backend.resize(before, size)?;
            self.control.update_size(self.target, size, bound).inspect_err(|_| {
                // Report the first failure.
                let _ = backend.resize(size, before);
            })?;
            checked.resized(size);
            Ok(())
        } else {
            self.control.update_size(self.target, size, bound)?;
            checked.resized(size);
            backend.resize(before, size).inspect_err(|_| {
                // The backend still has what lies behind the new end.
                if self.control.update_size(self.target, before, bound).is_ok() {
                    checked.resized(before);
                }
            })
        }
    }

    /// Prepares a device that was served before to be served again. Old drivers accept no new server after a stop: on these
    /// the device is added again, under the same number.
    fn refresh(&self, state: &mut State, bound: &Bound) -> Result<()> {
        // 6.16 still keeps the tags for the threads that had them; of the drivers that do not, 7.0 is the first whose
        // features tell.
        let takes_another = sys::UBLK_F_SAFE_STOP_DEV.into();
        if self.control.features(bound)?.has(takes_another) {
            return Ok(());
        }
        self.control.delete(self.target, bound)?;
        *state = State::Deleted;
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let info = sys::ublksrv_ctrl_dev_info { dev_id: self.id, ..checked.info() };
        add(&self.control, &checked, &info, bound)?;
        *self.identity() = nodes::identity(self.id);
        *state = State::Idle { used: false };
        Ok(())
    }

    /// The state of a device without a server.
    fn idle(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        self.look(&mut state)?;
        match &*state {
            State::Idle { .. } | State::Waiting => Ok(state),
            State::Live(serving) if serving.over() => self.end(&mut state).map(|()| state),
            State::Live(_) => {
                Err(Error::new(ErrorKind::Busy, "the device is started already").device(self.id))
            }
            State::Deleted | State::Released => Err(self.gone(&state)),
        }
    }

    /// Has every queue served, and then starts the device; `undo` ends the queues if that fails.
    fn serve_queues<G>(
        &self,
        char_dev: OwnedFd,
        claims: Claims,
        bound: &Bound,
        hand_out: impl FnOnce(Vec<PendingQueue>) -> Result<G>,
        undo: impl FnOnce(Serving),
        go: impl FnOnce(&Bound) -> Result<()>,
    ) -> Result<Serving> {
        let (serving, readiness, pending) = Serving::prepare(self, char_dev, claims)?;
        let going = hand_out(pending).and_then(|_held| {
            readiness.wait(self.counters.len(), bound)?;
            go(bound)
        });
        match going {
            Ok(()) => Ok(serving),
            Err(error) => {
                undo(serving);
                Err(error)
            }
        }
    }

    fn wait_for_disk(&self, bound: &Bound) -> Result<()> {
        let sys::ublk_param_devt { disk_major, disk_minor, .. } =
            self.control.params(self.target, bound)?.devt;
        nodes::wait_for_disk(self.id, (disk_major, disk_minor), bound)
    }

    fn spawn(&self, pending: Vec<PendingQueue>, bound: &Bound) -> Result<()> {
        let backend = self.backend()?;
        let plan = |pending: PendingQueue| {
            let cpus = self.cpus(pending.index(), bound);
            Plan { pending, backend: backend.clone(), durable: self.durable, cpus }
        };
        pending.into_iter().try_for_each(|pending| threads::serve(plan(pending), self.wishes.threads))
    }

    /// The CPUs to which a queue's thread is pinned, if it is. If the driver does not report them, the device starts anyway.
    fn cpus(&self, queue: u16, bound: &Bound) -> Option<Cpus> {
        let affinity = self.wishes.affinity.unwrap_or(self.wishes.poll.is_zero());
        let wanted = affinity && self.queues > 1 && self.wishes.threads == Threads::Own;
        let mask = wanted.then(|| self.control.affinity(self.target, queue, bound).ok())?;
        mask.map(|mask| Cpus::of(&mask))
    }

    /// Claims the backend's files before anything is changed. Queues share the claim, so that it lasts as long as the queues.
    fn claim(&self, patience: Duration) -> Result<Claims> {
        let backend = self.backend()?;
        Claims::take(&backend.places(), patience).map_err(|error| error.device(self.id))
    }

    /// The identity of the files that hold the disk's data, as they were opened.
    pub fn files(&self) -> Result<Vec<FileId>> {
        self.backend()?.places().iter().map(FileId::of).collect()
    }

    fn backend(&self) -> Result<Arc<dyn Backend>> {
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner).clone();
        backend.ok_or_else(|| self.gone(&State::Deleted))
    }

    /// Removes the disk. With `force` even if it is in use: its users get errors. Without `force` only while it is not in use.
    pub fn stop(&self, force: bool, bound: &Bound) -> Result<()> {
        self.or_tell(|| self.stop_now(force, bound))
    }

    /// Ends the device with `end`. If that fails, and the device has lost its disk nevertheless, as after a wait that was
    /// cancelled too late, its owner gets an event.
    fn or_tell(&self, end: impl FnOnce() -> Result<()>) -> Result<()> {
        let live = || matches!(*self.state(), State::Live(_));
        let was_live = live();
        end().inspect_err(|error| {
            if was_live && !live() {
                let message = format!("device {} has lost its disk, but it failed to end: {error}", self.id);
                let _ = catch_unwind(AssertUnwindSafe(|| (self.listener)(Event::Exit { message })));
            }
        })
    }

    fn stop_now(&self, force: bool, bound: &Bound) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        match &*state {
            State::Idle { .. } => Ok(()),
            State::Deleted | State::Released => Err(self.gone(&state)),
            State::Waiting => {
                registry::stop_through(&self.control, self.id, force, bound)?;
                *state = State::Idle { used: true };
                Ok(())
            }
            State::Live(serving) => {
                serving.settle();
                serving.expect_end();
                match registry::stop_through(&self.control, self.id, force, bound) {
                    // Another process was faster.
                    Err(error) if error.kind == ErrorKind::NotFound => {}
                    Err(error) => {
                        serving.expect_no_end();
                        return Err(error);
                    }
                    Ok(()) => {}
                }
                self.end(&mut state)
            }
        }
    }

    /// Stops the device and removes it from the driver. Deleting it again does nothing.
    pub fn delete(&self, force: bool, bound: &Bound) -> Result<()> {
        self.or_tell(|| self.delete_now(force, bound))
    }

    fn delete_now(&self, force: bool, bound: &Bound) -> Result<()> {
        match self.stop_now(force, bound) {
            Err(error) if error.kind == ErrorKind::Closed => return Ok(()),
            stopped => stopped?,
        }
        let mut state = self.state();
        self.look(&mut state)?;
        if matches!(*state, State::Deleted) {
            return Ok(());
        }
        registry::remove(&self.control, self.target, force, bound)?;
        self.forget(&mut state);
        Ok(())
    }

    /// Ends the device with its owner: deletes it even if its disk is in use, unless it waits for another server. A device
    /// that was adopted and not [kept](Self::keep) is [left](Self::leave) instead; if the owner has failed, so is every
    /// recoverable device.
    pub fn abandon(&self, failed: bool, bound: &Bound) -> Result<()> {
        let live = {
            let mut state = self.state();
            self.look(&mut state)?;
            match &*state {
                State::Waiting | State::Released => return Ok(()),
                other => matches!(other, State::Live(_)),
            }
        };
        if self.guest.load(Ordering::SeqCst) || failed && self.recovery.is_some() && live {
            return self.leave(bound);
        }
        self.delete(true, bound)
    }

    /// Whether its disk waits for a server, because this process has quiesced it or its queues have failed.
    pub fn waits(&self) -> Result<bool> {
        let mut state = self.state();
        self.look(&mut state)?;
        Ok(matches!(*state, State::Waiting))
    }

    /// Updates the state: another process may have deleted the device, so that its number may belong to another device now; or
    /// its queues may have failed. While this process serves a queue of the device, neither can have happened.
    fn look(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        let served = match &**state {
            State::Live(serving) => !serving.over(),
            State::Idle { .. } | State::Waiting => false,
            State::Deleted | State::Released => true,
        };
        if served {
            return Ok(());
        }
        let known = *self.identity();
        if known.is_some() && known != nodes::identity(self.id) {
            let ended = self.end(state);
            self.forget(state);
            return ended;
        }
        if matches!(**state, State::Live(_)) && self.outlives_its_queues() {
            self.end(state)?;
            **state = State::Waiting;
        }
        Ok(())
    }

    /// Whether the driver keeps the disk for another server, now that the queues have ended.
    fn outlives_its_queues(&self) -> bool {
        let stopped = |info: sys::ublksrv_ctrl_dev_info| u32::from(info.state) == sys::UBLK_S_DEV_DEAD;
        self.recovery.is_some()
            && self.control.info(self.id, &Bound::standard()).is_ok_and(|info| !stopped(info))
    }

    /// Marks the device as deleted.
    fn forget(&self, state: &mut State) {
        *state = State::Deleted;
        self.close();
    }

    /// Marks the device as left to another process.
    fn close(&self) {
        self.tracer.close();
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = backend.map(|backend| backend.close()) {
            reporter(&self.listener).report(error.to_string());
        }
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects the threads of a serving that has ended or is about to.
    fn end(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        match std::mem::replace(&mut **state, State::Idle { used: true }) {
            State::Live(serving) => serving.join(),
            _ => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error for a device that this process cannot use any more.
    fn gone(&self, state: &State) -> Error {
        let what = if matches!(state, State::Released) { "was handed over" } else { "was deleted" };
        Error::new(ErrorKind::Closed, format!("device {} {what}", self.id)).device(self.id)
    }

    fn not_live(&self, state: &State) -> Error {
        match state {
            State::Deleted | State::Released => self.gone(state),
            _ => Error::new(ErrorKind::Closed, format!("device {} is not live", self.id))
                .hint("start it first")
                .device(self.id),
        }
    }
}

/// What is chosen on this kernel, if nothing is asked for, for each of `kinds`: a name, and how disks of that kind can be
/// given the data of requests.
pub fn usual_choices<'a>(
    kinds: impl IntoIterator<Item = (&'a str, &'a [CopyMode])>,
    bound: &Bound,
) -> Result<Vec<(&'a str, Choice)>> {
    Ok(choice::usual(Control::open()?.features(bound)?, kinds))
}

/// Reports errors outside the queues to a listener.
fn reporter(listener: &Listener) -> Reporter {
    let listener = listener.clone();
    Reporter::new(move |message| listener(Event::Error { queue: None, message }))
}

/// For each of the threads.
fn counters_of(queues: u16, wishes: &Spec) -> Result<Box<[Arc<QueueCounters>]>> {
    let threads = u32::from(queues) * wishes.threads_per_queue;
    (0..threads).map(|_| QueueCounters::new().map(Arc::new)).collect()
}

/// Waits until the caller may use a node; root needs no waiting.
fn wait_for_access(device: Target, kind: Kind, bound: &Bound) -> Result<()> {
    if device.by_path { nodes::wait_for_access(device.id, kind, bound) } else { Ok(()) }
}

/// Adds a device and sets its parameters. Nothing is left behind when that fails.
fn add(
    control: &Control,
    checked: &Checked,
    info: &sys::ublksrv_ctrl_dev_info,
    bound: &Bound,
) -> Result<sys::ublksrv_ctrl_dev_info> {
    let info = control.add(info, bound)?;
    let max_io = info.max_io_buf_bytes.min(checked.spec.max_io);
    let device = Target::of(&info);
    let described = checked
        .kept(info.flags)
        .and_then(|()| wait_for_access(device, Kind::Server, bound))
        .and_then(|()| set_params(control, device, &checked.params(max_io), bound));
    described.inspect_err(|_| {
        // Report the first failure.
        let _ = control.delete(device, &Bound::standard());
    })?;
    Ok(info)
}

/// Sets a device's parameters. The driver ignores kinds of parameters that it does not know: that is an error here.
fn set_params(control: &Control, device: Target, params: &Params, bound: &Bound) -> Result<()> {
    control.set_params(device, params, bound)?;
    let new = params.types & sys::UBLK_PARAM_TYPE_SEGMENT;
    // All drivers have the others, or the feature that needs them shows that they do.
    if new == 0 || control.params(device, bound)?.types & new != 0 {
        return Ok(());
    }
    let message = "the driver cannot limit the memory segments of requests, as the backend requires";
    Err(Error::new(ErrorKind::Unsupported, message).hint("Linux 6.16 or newer can").device(device.id))
}

impl Drop for Device {
    fn drop(&mut self) {
        // Otherwise a device that no process can reach would stay forever.
        let _ = self.abandon(false, &Bound::standard());
        self.tracer.close();
    }
}
