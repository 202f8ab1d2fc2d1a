//! Reports errors that belong to no request to a device's owner.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Receives one line about an error, on any thread. The disk continues.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(String) + Send + Sync>);

impl Reporter {
    /// A reporter that calls `take`.
    pub fn new(take: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Reports a line. If the receiver panics, only the line is lost.
    pub fn report(&self, message: String) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.0)(message)));
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Reporter")
    }
}
