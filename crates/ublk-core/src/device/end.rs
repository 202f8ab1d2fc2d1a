//! The end of a device: its disk is removed, and then the device itself.

use super::state::State;
use super::{Device, Event, reporter};
use crate::backend::Stage;
use crate::bound::Bound;
use crate::error::{ErrorKind, Result};
use crate::registry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Device {
    /// Removes the disk. With `force` even if it is in use: its users get errors. Without `force` only while it is not in use.
    pub fn stop(&self, force: bool, bound: &Bound) -> Result<()> {
        self.or_tell(|| self.stop_now(force, bound))
    }

    /// Ends the device with `end`. If that fails, and the device has lost its disk nevertheless, as after a wait that was
    /// cancelled too late, its owner gets an event.
    pub(super) fn or_tell(&self, end: impl FnOnce() -> Result<()>) -> Result<()> {
        let live = || matches!(*self.state(), State::Live(_));
        let was_live = live();
        end().inspect_err(|error| {
            if was_live && !live() {
                let message = format!("device {} has lost its disk, but it failed to end: {error}", self.id);
                let _ = catch_unwind(AssertUnwindSafe(|| (self.listener)(Event::Exit { message })));
            }
        })
    }

    pub(super) fn stop_now(&self, force: bool, bound: &Bound) -> Result<()> {
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
                if force {
                    serving.enter(Stage::Ending); // otherwise a request that waits on purpose keeps the disk in use
                }
                serving.settle();
                serving.expect_end();
                match registry::stop_through(&self.control, self.id, force, bound) {
                    // Another process was faster.
                    Err(error) if error.kind == ErrorKind::NotFound => {}
                    Err(error) if matches!(error.kind, ErrorKind::Timeout | ErrorKind::Cancelled) => {
                        serving.may_end_yet();
                        return Err(error);
                    }
                    Err(error) => {
                        serving.enter(Stage::Live);
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

    pub(super) fn delete_now(&self, force: bool, bound: &Bound) -> Result<()> {
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

    /// Marks the device as deleted.
    pub(super) fn forget(&self, state: &mut State) {
        *state = State::Deleted;
        self.close();
    }

    /// Marks the device as left to another process.
    pub(super) fn close(&self) {
        self.tracer.close();
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = backend.map(|backend| backend.close()) {
            reporter(&self.listener).report(error.to_string());
        }
    }
}
