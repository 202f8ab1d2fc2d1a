//! The control plane: every command of `/dev/ublk-control`, typed, each wait bounded and cancellable.
//!
//! One thread per process owns the control ring; callers block on it, never on the kernel. A command whose
//! bound runs out is cancelled, and its buffer stays until the kernel lets go of it. The thread, and with it
//! the open control device that would keep the module loaded, goes with the last [`Control`].

mod commands;
mod thread;

pub use thread::Control;

use crate::cancel::Cancel;
use std::time::{Duration, Instant};

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
