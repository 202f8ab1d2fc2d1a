//! The bound of a wait.

use crate::cancel::Cancel;
use std::time::{Duration, Instant};

/// How long a command may take, and a token that can end it early.
#[derive(Clone)]
pub struct Bound {
    /// For each command.
    pub timeout: Duration,
    /// Ends the wait early.
    pub cancel: Cancel,
}

impl Bound {
    /// Ten seconds, and no token to end it early.
    pub fn standard() -> Self {
        Self { timeout: Duration::from_secs(10), cancel: Cancel::default() }
    }

    /// When a wait that begins now is over.
    pub(crate) fn until(&self) -> Instant {
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
        Instant::now() + self.timeout.min(LONG)
    }
}
