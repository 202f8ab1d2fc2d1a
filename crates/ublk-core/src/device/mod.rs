//! A device that this process serves, from ADD_DEV to DEL_DEV.
//!
//! ```text
//!  create ──► created ──start──► live ──stop──► stopped ──delete──► deleted
//!                 ▲                               │
//!                 └────────────start──────────────┘        delete is possible anywhere
//! ```

mod node;
mod seat;
mod serving;

pub(crate) use seat::become_io_flusher;
pub use seat::{Seat, Seated};

use crate::abi::sys;
use crate::backend::Backend;
use crate::control::{Bound, Control};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::QueueCounters;
use crate::registry;
use crate::spec::{Checked, Spec};
use serving::{Serving, spawn_native};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a device tells its owner without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something went wrong in a queue; the device may go on.
    Error {
        /// The queue's number.
        queue: u16,
        /// One line.
        message: String,
    },
    /// Nobody serves the device any more, and its owner did not ask for that.
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
    control: Control,
    /// Until the device is deleted: its handle may be kept for long after that.
    backend: Mutex<Option<Arc<dyn Backend>>>,
    checked: Checked,
    queues: u16,
    depth: u16,
    max_io: u32,
    counters: Box<[Arc<QueueCounters>]>,
    listener: Listener,
    state: Mutex<State>,
    /// Changed only with the state locked.
    identity: Mutex<Identity>,
}

enum State {
    /// `used`: it was served before.
    Idle {
        used: bool,
    },
    Live(Serving),
    Deleted,
}

/// Which device of its number it is, if the system tells.
type Identity = Option<u64>;

impl Device {
    /// Adds a device to the driver. The disk appears with [`start`](Self::start).
    ///
    /// Nothing is left behind when it fails.
    pub fn create(spec: &Spec, backend: Arc<dyn Backend>, bound: &Bound, listener: Listener) -> Result<Self> {
        let checked = spec.check(&backend.properties())?;
        let control = Control::open()?;
        let info = add(&control, &checked, &checked.info(), bound)?;
        let (id, max_io) = (info.dev_id, info.max_io_buf_bytes.min(spec.max_io));
        Ok(Self {
            id,
            control,
            backend: Mutex::new(Some(backend)),
            checked,
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            max_io,
            counters: (0..info.nr_hw_queues).map(|_| Arc::default()).collect(),
            listener,
            state: Mutex::new(State::Idle { used: false }),
            identity: Mutex::new(node::identity(id)),
        })
    }

    /// The driver's number for it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Each queue's counters, by its number.
    pub fn counters(&self) -> &[Arc<QueueCounters>] {
        &self.counters
    }

    /// Makes the disk appear, served by the backend's engines on threads of their own; returns when its node is
    /// there. Possible again after [`stop`](Self::stop).
    ///
    /// When it fails, the device is as it was before.
    pub fn start(&self, bound: &Bound) -> Result<()> {
        self.start_with(bound, |seats| self.spawn(seats))
    }

    /// As [`start`](Self::start), with the queues served by the threads that take the seats `hand_out` is given.
    /// They have to be taken within the bound. What it returns is kept until then, and dropped first when that
    /// fails: it can withdraw seats that nobody has taken.
    pub fn start_with<G>(&self, bound: &Bound, hand_out: impl FnOnce(Vec<Seat>) -> Result<G>) -> Result<()> {
        let mut state = self.idle()?;
        if matches!(*state, State::Idle { used: true }) {
            self.refresh(&mut state, bound)?;
        }
        *state = State::Idle { used: true };
        let serving = self.seat(bound, hand_out, |bound| {
            self.control.start(self.id, bound)?;
            let params = self.control.params(self.id, bound)?;
            node::wait_for_disk(self.id, (params.devt.disk_major, params.devt.disk_minor), bound)
        });
        *state = State::Live(serving?);
        Ok(())
    }

    /// Takes a recoverable device over whose queues have all ended; its disk has been there all the time. The
    /// driver then sends again what it has to. Otherwise as [`start_with`](Self::start_with).
    pub fn recover_with<G>(
        &self,
        bound: &Bound,
        hand_out: impl FnOnce(Vec<Seat>) -> Result<G>,
    ) -> Result<()> {
        let mut state = self.idle()?;
        node::retry_while_busy(bound, || self.control.start_recovery(self.id, bound))?;
        let serving = self.seat(bound, hand_out, |bound| self.control.end_recovery(self.id, bound));
        *state = State::Live(serving?);
        Ok(())
    }

    /// Makes a device that was served before fit to be served again. Drivers before 6.15 take no new server after
    /// a stop: there the device is added anew, under its number.
    fn refresh(&self, state: &mut State, bound: &Bound) -> Result<()> {
        // The first feature of a driver that does.
        let takes_another = sys::UBLK_F_QUIESCE.into();
        if self.control.features(bound)?.has(takes_another) {
            return Ok(());
        }
        self.control.delete(self.id, bound)?;
        *state = State::Deleted;
        let info = sys::ublksrv_ctrl_dev_info { dev_id: self.id, ..self.checked.info() };
        add(&self.control, &self.checked, &info, bound)?;
        *self.identity() = node::identity(self.id);
        *state = State::Idle { used: false };
        Ok(())
    }

    /// The state of a device that nobody serves.
    fn idle(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        self.look(&mut state)?;
        match &*state {
            State::Idle { .. } => Ok(state),
            State::Live(serving) if serving.over() => self.end(&mut state).map(|()| state),
            State::Live(_) => {
                Err(Error::new(ErrorKind::Busy, "the device is started already").device(self.id))
            }
            State::Deleted => Err(self.deleted()),
        }
    }

    /// Seats every queue, and then lets the device go.
    fn seat<G>(
        &self,
        bound: &Bound,
        hand_out: impl FnOnce(Vec<Seat>) -> Result<G>,
        go: impl FnOnce(&Bound) -> Result<()>,
    ) -> Result<Serving> {
        let char_dev = node::open_char_device(self.id, bound)?;
        let (serving, seats) = Serving::prepare(self, char_dev)?;
        let going = hand_out(seats).and_then(|_held| {
            serving.ready(bound)?;
            go(bound)
        });
        match going {
            Ok(()) => Ok(serving),
            Err(error) => {
                serving.abandon();
                Err(error)
            }
        }
    }

    fn spawn(&self, seats: Vec<Seat>) -> Result<()> {
        let durable = !self.checked.write_cache;
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let backend = backend.ok_or_else(|| self.deleted())?;
        seats.into_iter().try_for_each(|seat| spawn_native(seat, backend.clone(), durable))
    }

    /// Makes the disk disappear. With `force` whatever is mounted on it: its users get errors; without it only
    /// while nobody uses the disk.
    pub fn stop(&self, force: bool, bound: &Bound) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        match &*state {
            State::Idle { .. } => Ok(()),
            State::Deleted => Err(self.deleted()),
            State::Live(serving) => {
                serving.expect_end(true);
                match registry::stop_through(&self.control, self.id, force, bound) {
                    // Somebody else was faster.
                    Err(error) if error.kind == ErrorKind::NotFound => {}
                    Err(error) => {
                        serving.expect_end(false);
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
        match self.stop(force, bound) {
            Err(error) if error.kind == ErrorKind::Closed => return Ok(()),
            stopped => stopped?,
        }
        let mut state = self.state();
        self.look(&mut state)?;
        if matches!(*state, State::Deleted) {
            return Ok(());
        }
        registry::remove(&self.control, self.id, force, bound)?;
        self.forget(&mut state);
        Ok(())
    }

    /// Notices when somebody else has deleted the device: its number may be another's by now. While a queue of ours
    /// is served, it is ours.
    fn look(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        let served = match &**state {
            State::Live(serving) => !serving.over(),
            State::Idle { .. } => false,
            State::Deleted => true,
        };
        let known = *self.identity();
        if served || known.is_none() || known == node::identity(self.id) {
            return Ok(());
        }
        let ended = self.end(state);
        self.forget(state);
        ended
    }

    /// The device is gone.
    fn forget(&self, state: &mut State) {
        *state = State::Deleted;
        if let Some(backend) = self.backend.lock().unwrap_or_else(PoisonError::into_inner).take() {
            backend.close();
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

    fn deleted(&self) -> Error {
        Error::new(ErrorKind::Closed, format!("device {} was deleted", self.id)).device(self.id)
    }
}

/// Adds a device and says what it looks like. Nothing is left behind when that fails.
fn add(
    control: &Control,
    checked: &Checked,
    info: &sys::ublksrv_ctrl_dev_info,
    bound: &Bound,
) -> Result<sys::ublksrv_ctrl_dev_info> {
    let info = control.add(info, bound)?;
    let max_io = info.max_io_buf_bytes.min(checked.spec.max_io);
    control.set_params(info.dev_id, &checked.params(max_io), bound).inspect_err(|_| {
        // The first failure is the one to tell.
        let _ = control.delete(info.dev_id, &Bound::standard());
    })?;
    Ok(info)
}

impl Drop for Device {
    fn drop(&mut self) {
        // A device that nobody can reach any more would stay for ever.
        let _ = self.delete(true, &Bound::standard());
    }
}
