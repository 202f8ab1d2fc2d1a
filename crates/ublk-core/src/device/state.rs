//! The state of a device, which may change without a call of its owner.

use super::Device;
use super::serving::Serving;
use crate::abi::sys;
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use crate::nodes;
use crate::registry;
use std::sync::{MutexGuard, PoisonError};

pub(super) enum State {
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

/// Distinguishes it from other devices with its number, if sysfs is available.
pub(super) type Identity = Option<u64>;

impl Device {
    /// Whether its disk waits for a server, because this process has quiesced it or its queues have failed.
    pub fn waits(&self) -> Result<bool> {
        let mut state = self.state();
        self.look(&mut state)?;
        Ok(matches!(*state, State::Waiting))
    }

    /// The device as the driver sees it. Never waits for the device's server, nor for another call.
    pub fn info(&self, bound: &Bound) -> Result<registry::Info> {
        let serves = match self.state.try_lock() {
            Ok(state) => matches!(&*state, State::Live(serving) if !serving.over()),
            // It is changing at present: that is looked up.
            Err(_) => return registry::open(self.id, bound),
        };
        registry::open_own(self.id, serves, bound)
    }

    /// Updates the state: another process may have deleted the device, so that its number may belong to another device now; or
    /// its queues may have failed. While this process serves a queue of the device, neither can have happened.
    pub(super) fn look(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
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
            self.let_go_of_files();
        }
        Ok(())
    }

    /// Its queues have ended, and another process may serve the device from now on.
    pub(super) fn let_go_of_files(&self) {
        if let Ok(backend) = self.backend() {
            backend.let_go();
        }
    }

    /// Whether the driver keeps the disk for another server, now that the queues have ended.
    pub(super) fn outlives_its_queues(&self) -> bool {
        let stopped = |info: sys::ublksrv_ctrl_dev_info| u32::from(info.state) == sys::UBLK_S_DEV_DEAD;
        self.recovery.is_some()
            && self.control.info(self.id, &Bound::standard()).is_ok_and(|info| !stopped(info))
    }

    /// The state of a device without a server.
    pub(super) fn idle(&self) -> Result<MutexGuard<'_, State>> {
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects the threads of a serving that has ended or is about to.
    pub(super) fn end(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        match std::mem::replace(&mut **state, State::Idle { used: true }) {
            State::Live(serving) => serving.join(),
            _ => Ok(()),
        }
    }

    /// The error for a device that this process cannot use any more.
    pub(super) fn gone(&self, state: &State) -> Error {
        let what = if matches!(state, State::Released) { "was handed over" } else { "was deleted" };
        Error::new(ErrorKind::Closed, format!("device {} {what}", self.id)).device(self.id)
    }

    pub(super) fn not_live(&self, state: &State) -> Error {
        match state {
            State::Deleted | State::Released => self.gone(state),
            _ => Error::new(ErrorKind::Closed, format!("device {} is not live", self.id))
                .hint("start it first")
                .device(self.id),
        }
    }
}
