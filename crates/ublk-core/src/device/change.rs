//! Changes to a disk that has just appeared, which nobody waits for but the end of the disk.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// What waits for a change before it goes on all the same. The kernel takes some milliseconds, and a request that is
/// in flight as long as its server takes.
const PATIENCE: Duration = Duration::from_secs(1);

/// A change in progress.
pub(super) struct Change {
    /// Disconnects when it is over.
    over: Receiver<Infallible>,
}

impl Change {
    /// Begins one on a thread of its own; `None` if there is no thread for it.
    pub fn begin(name: &str, work: impl FnOnce() + Send + 'static) -> Option<Self> {
        let (done, over) = sync_channel(0);
        let run = move || {
            work();
            drop(done);
        };
        thread::Builder::new().name(name.into()).stack_size(256 << 10).spawn(run).ok()?;
        Some(Self { over })
    }

    /// Waits for it: some kernels get stuck when the disk is removed at the same moment.
    pub fn wait(&self) {
        let _ = self.over.recv_timeout(PATIENCE); // nothing is ever sent: it ends, or the time
    }
}
