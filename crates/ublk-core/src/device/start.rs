//! The start of a device: its queues are served, and its disk appears.

use super::cpus::Cpus;
use super::queue_worker::Plan;
use super::serving::Serving;
use super::state::State;
use super::{Device, PendingQueue, create, threads};
use crate::abi::sys;
use crate::backend::Stage;
use crate::bound::Bound;
use crate::claim::Claims;
use crate::error::Result;
use crate::nodes::{self, Kind};
use crate::spec::Threads;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::Duration;

/// How long the last server of the backend's files may take to release them, such as one that was just killed.
pub(super) const LEAVING: Duration = Duration::from_millis(250);

impl Device {
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
        let size = self.checked.lock().unwrap_or_else(PoisonError::into_inner).size();
        let claims = self.claim(size, LEAVING)?;
        if matches!(*state, State::Idle { used: true }) {
            self.refresh(&mut state, bound)?;
        }
        *state = State::Idle { used: true };
        let char_dev = nodes::open_server_node(self.id, bound)?;
        let serving = self.serve_queues(char_dev, claims, bound, hand_out, Serving::abandon, |bound| {
            self.control.start(self.target, bound)?;
            self.wait_for_disk(bound)?;
            create::wait_for_access(self.target, Kind::Disk, bound)
        });
        *state = State::Live(serving?.settle_later(self.id, self.queues));
        Ok(())
    }

    /// Prepares a device that was served before to be served again. Old drivers accept no new server after a stop: on these
    /// the device is added again, under the same number.
    pub(super) fn refresh(&self, state: &mut State, bound: &Bound) -> Result<()> {
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
        create::add(&self.control, &checked, &info, bound)?;
        *self.identity() = nodes::identity(self.id);
        *state = State::Idle { used: false };
        Ok(())
    }

    /// Has every queue served, and then starts the device; `undo` ends the queues if that fails.
    pub(super) fn serve_queues<G>(
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
            Ok(()) => {
                serving.enter(Stage::Live);
                Ok(serving)
            }
            Err(error) => {
                undo(serving);
                Err(error)
            }
        }
    }

    pub(super) fn wait_for_disk(&self, bound: &Bound) -> Result<()> {
        let sys::ublk_param_devt { disk_major, disk_minor, .. } =
            self.control.params(self.target, bound)?.devt;
        nodes::wait_for_disk(self.id, (disk_major, disk_minor), bound)
    }

    pub(super) fn spawn(&self, pending: Vec<PendingQueue>, bound: &Bound) -> Result<()> {
        let backend = self.backend()?;
        let plan = |pending: PendingQueue| {
            let cpus = self.cpus(pending.index(), bound);
            Plan { pending, backend: backend.clone(), durable: self.durable, cpus }
        };
        pending.into_iter().try_for_each(|pending| threads::serve(plan(pending), self.wishes.threads))
    }

    /// The CPUs to which a queue's thread is pinned, if it is. If the driver does not report them, the device starts anyway.
    pub(super) fn cpus(&self, queue: u16, bound: &Bound) -> Option<Cpus> {
        let affinity = self.wishes.affinity.unwrap_or(self.wishes.poll.is_zero());
        let wanted = affinity && self.queues > 1 && self.wishes.threads == Threads::Own;
        let mask = wanted.then(|| self.control.affinity(self.target, queue, bound).ok())?;
        mask.map(|mask| Cpus::of(&mask))
    }
}
