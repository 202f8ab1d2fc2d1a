//! The control plane: every command of `/dev/ublk-control`, typed, each wait bounded and cancellable.
//!
//! One thread per process owns the control ring; callers block on it, never on the kernel. A command whose
//! bound runs out is cancelled, and its buffer stays until the kernel lets go of it. The thread, and with it
//! the open control device that would keep the module loaded, goes with the last [`Control`].

mod commands;
mod plain;
mod thread;

pub use thread::Control;

use crate::abi::sys::{self, ublksrv_ctrl_dev_info};
use crate::cancel::Cancel;
use std::time::{Duration, Instant};

/// A device as commands name it. An ordinary user's is named by its node as well, which the driver takes for the
/// proof that the caller may use it; from root, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The driver's number.
    pub id: u32,
    /// Whether its node has to be named (`UBLK_F_UNPRIVILEGED_DEV`).
    pub by_path: bool,
}

impl Target {
    /// The device that the driver told of.
    pub fn of(info: &ublksrv_ctrl_dev_info) -> Self {
        Self { id: info.dev_id, by_path: info.flags & u64::from(sys::UBLK_F_UNPRIVILEGED_DEV) != 0 }
    }
}

/// A device of root's.
impl From<u32> for Target {
    fn from(id: u32) -> Self {
        Self { id, by_path: false }
    }
}

/// How long a command may take, and who may end it early.
#[derive(Clone)]
pub struct Bound {
    /// For each command.
    pub timeout: Duration,
    /// Ends the wait early.
    pub cancel: Cancel,
}

impl Bound {
    /// Ten seconds, and nobody to end it early.
    pub fn standard() -> Self {
        Self { timeout: Duration::from_secs(10), cancel: Cancel::default() }
    }

    /// When a wait that begins now is over.
    pub(crate) fn until(&self) -> Instant {
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
        Instant::now() + self.timeout.min(LONG)
    }
}
