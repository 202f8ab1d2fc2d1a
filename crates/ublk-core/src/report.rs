//! Reports what belongs to no request to a device's owner.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What is reported, each in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Something failed. The disk continues.
    Error(String),
    /// Somebody else has opened what the disk is in: it has stopped.
    Fenced(String),
}

/// Receives reports, on any thread.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(Report) + Send + Sync>);

impl Reporter {
    /// A reporter that calls `take` with the line, whatever it is about.
    pub fn new(take: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self::telling(move |report| match report {
            Report::Error(message) | Report::Fenced(message) => take(message),
        })
    }

    /// A reporter that calls `take`.
    pub fn telling(take: impl Fn(Report) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Reports an error. If the receiver panics, only the line is lost.
    pub fn report(&self, message: String) {
        self.tell(Report::Error(message));
    }

    /// Reports that another process has opened what the disk is in.
    pub fn fenced(&self, message: String) {
        self.tell(Report::Fenced(message));
    }

    fn tell(&self, report: Report) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.0)(report)));
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Reporter")
    }
}
