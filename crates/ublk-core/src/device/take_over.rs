//! How a device passes from one server to the next: taken over after its server has ended, or quiesced while it is live.

use super::serving::Serving;
use super::{Device, Listener, PendingQueue, State, last_server};
use crate::abi::{SECTOR, sys};
use crate::backend::{Backend, Stage};
use crate::bound::Bound;
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Transport;
use crate::spec::{Checked, Recovery};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long the previous server may take to release its files.
const DYING: Duration = Duration::from_secs(1);

/// How long what runs in the background, such as a flatten, may take to end before a hand-over.
const INTERRUPT: Duration = Duration::from_secs(5);

impl Device {
    /// A device that another process created, and whose server has ended; [`recover`](Self::recover) takes it over. Waits if
    /// the server is just exiting. `backend` must hold the disk's data.
    ///
    /// Until it is [kept](Self::keep) only [`delete`](Self::delete) deletes it, because the disk may be in use. If it fails,
    /// nothing has changed.
    pub fn adopt(id: u32, backend: Arc<dyn Backend>, bound: &Bound, listener: Listener) -> Result<Self> {
        let control = Control::open()?;
        let info = last_server::wait_to_leave(&control, id, bound)?;
        let params = control.params(Target::of(&info), bound)?;
        let checked = Checked::existing(&info, &params, &*backend)?;
        let max_io = checked.spec.max_io;
        let device = Self::new(control, &info, checked, max_io, backend, listener, State::Waiting)?;
        device.guest.store(true, Ordering::SeqCst);
        Ok(device)
    }

    /// The take-over has succeeded: from now on the device ends with this process, like one that this process created.
    pub fn keep(&self) {
        self.guest.store(false, Ordering::SeqCst);
    }

    /// As [`recover_with`](Self::recover_with), with the backend's engines on native threads.
    pub fn recover(&self, bound: &Bound) -> Result<()> {
        self.recover_with(bound, |pending| self.spawn(pending, bound))
    }

    /// Takes over a recoverable device whose queues have all ended; its disk existed all the time. The driver then sends
    /// requests again if its recovery mode says so. Otherwise as [`start_with`](Self::start_with).
    pub fn recover_with<G>(
        &self,
        bound: &Bound,
        hand_out: impl FnOnce(Vec<PendingQueue>) -> Result<G>,
    ) -> Result<()> {
        let mut state = self.idle()?;
        *state = State::Waiting;
        // If it fails, another process may take the device over.
        *state = State::Live(self.try_recover(bound, hand_out).inspect_err(|_| self.let_go_of_files())?);
        Ok(())
    }

    fn try_recover<G>(
        &self,
        bound: &Bound,
        hand_out: impl FnOnce(Vec<PendingQueue>) -> Result<G>,
    ) -> Result<Serving> {
        // Another server may have resized it meanwhile.
        let size = self.control.params(self.target, bound)?.basic.dev_sectors * SECTOR;
        let claims = self.claim(size, DYING)?;
        let char_dev = last_server::open_to_recover(&self.control, self.target, bound)?;
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).resized(size);
        self.serve_queues(char_dev, claims, bound, hand_out, Serving::leave, |bound| {
            self.wait_for_disk(bound)?; // this server's /dev may be another
            self.control.end_recovery(self.target, bound)
        })
    }

    /// Stops serving a live device, so that another server can take it over, or this one again: its disk stays, and new
    /// requests wait. No request fails.
    pub fn quiesce(&self, bound: &Bound) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        let State::Live(serving) = &*state else { return Err(self.not_live(&state)) };
        let unsupported = |message: &str, hint: &str| {
            Err(Error::new(ErrorKind::Unsupported, message).hint(hint).device(self.id))
        };
        const MAKE: &str = "make it with recovery requeue or reissue";
        match self.recovery {
            None => return unsupported("the device cannot be handed over", MAKE),
            Some(Recovery::Fail) => {
                return unsupported(
                    "the device cannot be handed over: it fails requests while nobody serves it",
                    MAKE,
                );
            }
            // Older drivers lose requests of queues that leave while their process still runs.
            Some(_) if !self.flags.has(sys::UBLK_F_QUIESCE.into()) => {
                return unsupported("this kernel cannot hand a device over", "Linux 6.16 or newer can");
            }
            // After QUIESCE_DEV with batches the driver fails all new requests until another server is there
            // (`force_abort`). A server that closes its queues instead avoids that, but then the driver fails the
            // requests that it had already delivered.
            Some(Recovery::Requeue) if self.choice.mode.transport == Transport::Batch => {
                return unsupported(
                    "the device cannot be handed over: with transport batch and recovery requeue the driver would fail requests",
                    "make it with recovery reissue, or with transport per-io",
                );
            }
            Some(_) => {}
        }
        // While a request of it is waited for, nobody else could use the device.
        self.interrupt_move(INTERRUPT)?;
        self.backend()?.interrupt(INTERRUPT).map_err(|error| error.device(self.id))?;
        serving.expect_end();
        serving.enter(Stage::Leaving);
        match self.choice.mode.transport {
            Transport::PerIo => self.take_back(serving, bound).inspect_err(|_| {
                serving.enter(Stage::Live);
                serving.expect_no_end();
            })?,
            Transport::Batch => answer_what_is_there(serving, bound),
        }
        self.leave_queues(&mut state, bound)
    }

    /// Leaves the device to the next server. After this, this process is not its server, even if something fails. If the
    /// device can be [quiesced](Self::quiesce), no request fails. Otherwise it is left as by a killed server: the disk stays,
    /// and requests in flight fail or are sent again, depending on its recovery mode.
    pub fn leave(&self, bound: &Bound) -> Result<()> {
        let quiesced = self.quiesce(bound);
        let left = {
            let mut state = self.state();
            match &*state {
                State::Live(serving) => {
                    if self.choice.mode.transport == Transport::Batch {
                        serving.expect_end();
                        serving.enter(Stage::Leaving);
                        answer_what_is_there(serving, bound);
                    }
                    self.leave_queues(&mut state, bound)
                }
                State::Waiting if quiesced.as_ref().is_err_and(|error| error.kind != ErrorKind::Closed) => {
                    quiesced
                }
                _ => Ok(()),
            }
        };
        self.release()?;
        left
    }

    /// Has the queues leave their rings, and waits until the driver has noticed. Queues with requests in flight leave, too:
    /// the driver sends these requests again, or fails them.
    fn leave_queues(&self, state: &mut State, bound: &Bound) -> Result<()> {
        if let State::Live(serving) = std::mem::replace(state, State::Waiting) {
            serving.leave();
            self.let_go_of_files();
        }
        last_server::wait_to_leave(&self.control, self.id, bound).map(drop)
    }

    /// Has the driver withdraw its tags. A tag whose request was being served is offered again with the answer, and withdrawn
    /// only by the next QUIESCE_DEV.
    fn take_back(&self, serving: &Serving, bound: &Bound) -> Result<()> {
        const LONGEST: Duration = Duration::from_millis(50);
        let (until, mut pause, mut begun) = (bound.until(), Duration::from_millis(1), false);
        while !serving.over() && Instant::now() < until {
            match self.control.quiesce(self.target, bound) {
                // Every tag is taken, and was for all that time.
                Err(error) if begun || error.kind == ErrorKind::Busy => {}
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            begun = true; // from here on there is no way back
            serving.wait(pause);
            pause = (pause * 2).min(LONGEST);
        }
        Ok(())
    }

    /// Leaves a device that was quiesced, or whose queues have failed, to another process.
    pub fn release(&self) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        match &*state {
            State::Waiting => {
                *state = State::Released;
                self.close();
                Ok(())
            }
            State::Released => Ok(()),
            State::Deleted => Err(self.gone(&state)),
            _ => Err(Error::new(ErrorKind::Busy, "the device was not quiesced").device(self.id)),
        }
    }
}

/// Has the queues of batches answer the requests that they have, and end.
fn answer_what_is_there(serving: &Serving, bound: &Bound) {
    let until = bound.until();
    serving.hand_over();
    while !serving.over() && Instant::now() < until {
        serving.wait(until.saturating_duration_since(Instant::now()));
    }
}
