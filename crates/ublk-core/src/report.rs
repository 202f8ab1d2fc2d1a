//! Telling a device's owner of what goes wrong aside from any request.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Takes one line about something that went wrong, on any thread. The disk goes on.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(String) + Send + Sync>);

impl Reporter {
    /// One that calls `take`.
    pub fn new(take: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Tells it. A panic of the one that takes it costs the line, nothing else.
    pub fn report(&self, message: String) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.0)(message)));
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Reporter")
    }
}
