//! A device's way from one server to the next: taken over when its server is gone, or let go of while it is live.

use super::serving::Serving;
use super::{Device, Listener, Seat, State, node};
use crate::abi::sys;
use crate::backend::Backend;
use crate::control::{Bound, Control, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Transport;
use crate::spec::{Checked, Recovery};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the previous server may take to release its files.
const DYING: Duration = Duration::from_secs(1);

impl Device {
    /// A device that another process made, and whose server is gone; [`recover`](Self::recover) takes it over. Waits for
    /// a server that is just leaving. `backend` has to hold the disk's bytes.
    ///
    /// Nothing has changed when it fails.
    pub fn adopt(id: u32, backend: Arc<dyn Backend>, bound: &Bound, listener: Listener) -> Result<Self> {
        let control = Control::open()?;
        let info = node::wait_for_server_to_leave(&control, id, bound)?;
        let params = control.params(Target::of(&info), bound)?;
        let checked = Checked::existing(&info, &params, &*backend)?;
        let max_io = checked.spec.max_io;
        Self::new(control, &info, checked, max_io, backend, listener, State::Waiting)
    }

    /// As [`recover_with`](Self::recover_with), with the backend's engines on threads of ours.
    pub fn recover(&self, bound: &Bound) -> Result<()> {
        self.recover_with(bound, |seats| self.spawn(seats, bound))
    }

    /// Takes a recoverable device over whose queues have all ended; its disk has been there all the time. The
    /// driver then sends again what it has to. Otherwise as [`start_with`](Self::start_with).
    pub fn recover_with<G>(
        &self,
        bound: &Bound,
        hand_out: impl FnOnce(Vec<Seat>) -> Result<G>,
    ) -> Result<()> {
        let mut state = self.idle()?;
        *state = State::Waiting;
        let claims = self.claim(DYING)?;
        let char_dev = node::open_to_recover(&self.control, self.target, bound)?;
        let serving = self.seat(char_dev, claims, bound, hand_out, Serving::leave, |bound| {
            self.wait_for_disk(bound)?; // this server's /dev may be another
            self.control.end_recovery(self.target, bound)
        });
        *state = State::Live(serving?);
        Ok(())
    }

    /// Lets go of a live device, so that another server can take it over, or this one again: its disk stays, and what
    /// is asked of it waits. No request fails.
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
            // Older drivers lose requests of queues that leave while their process goes on.
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
        serving.expect_end(true);
        match self.choice.mode.transport {
            Transport::PerIo => self.take_back(serving, bound).inspect_err(|_| serving.expect_end(false))?,
            Transport::Batch => {
                let until = bound.until();
                serving.hand_over();
                while !serving.over() && Instant::now() < until {
                    serving.wait(until.saturating_duration_since(Instant::now()));
                }
            }
        }
        // What has not ended by now leaves as it is: the driver sends again what it had, or fails it.
        let serving = std::mem::replace(&mut *state, State::Waiting);
        if let State::Live(serving) = serving {
            serving.leave();
        }
        node::wait_for_server_to_leave(&self.control, self.id, bound).map(drop)
    }

    /// Has the driver take back its tags. A tag whose request was being served is offered again with the answer, and taken
    /// back only when the driver is told once more.
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

    /// Forgets a device that was quiesced: another process serves it.
    pub fn release(&self) -> Result<()> {
        let mut state = self.state();
        match &*state {
            State::Waiting => {
                *state = State::Released;
                self.close();
                Ok(())
            }
            State::Released => Ok(()),
            _ => Err(Error::new(ErrorKind::Busy, "the device was not quiesced").device(self.id)),
        }
    }
}
