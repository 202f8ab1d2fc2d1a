//! How it stands with the connections of a disk, for whoever wants to know.

use super::hub::Hub;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// How many servers there are: one, or those of a disk that consists of several.
    pub servers: u64,
    /// With how many of them there is a connection, as far as is known.
    pub connected: u64,
    /// How often the connection was lost.
    pub lost: u64,
    /// How often it was made again.
    pub reconnects: u64,
    /// How often writes may have been lost that a server had answered.
    pub losses: u64,
    /// Bytes that journals keep.
    pub journal_bytes: u64,
    /// Writes that they keep.
    pub journal_writes: u64,
    /// The most bytes that they can.
    pub journal_max: u64,
    /// Writes that were answered since the last flush, of disks without a journal too.
    pub unflushed: u64,
}

/// What is counted.
#[derive(Default)]
pub struct Counts {
    pub lost: AtomicU64,
    pub reconnects: AtomicU64,
    /// What the journal kept when it was last looked at: it may be in use for long, while it is sent.
    journal_bytes: AtomicU64,
    journal_writes: AtomicU64,
    journal_max: u64,
}

impl Counts {
    /// With a journal of this length in bytes, or none.
    pub fn new(journal_max: u64) -> Self {
        Self { journal_max, ..Self::default() }
    }
}

impl Hub {
    fn add_to(&self, sum: &mut Standing) {
        let connected = self.is_connected();
        sum.servers += 1;
        sum.connected += u64::from(connected);
        sum.lost += self.counts.lost.load(Ordering::Relaxed);
        sum.reconnects += self.counts.reconnects.load(Ordering::Relaxed);
        sum.losses += self.losses();
        sum.unflushed += self.unflushed();
        if let Some(journal) = self.journal_at_rest() {
            self.counts.journal_bytes.store(journal.bytes(), Ordering::Relaxed);
            self.counts.journal_writes.store(journal.writes(), Ordering::Relaxed);
        }
        sum.journal_bytes += self.counts.journal_bytes.load(Ordering::Relaxed);
        sum.journal_writes += self.counts.journal_writes.load(Ordering::Relaxed);
        sum.journal_max += self.counts.journal_max;
    }
}

/// The servers of a disk, which may consist of several such.
#[derive(Default)]
pub struct Servers(Mutex<Vec<Weak<Hub>>>);

impl Servers {
    pub(super) fn add(&self, hub: &Arc<Hub>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(hub));
    }

    /// How it stands with all of them; `None`: there are none.
    pub fn standing(&self) -> Option<Standing> {
        let hubs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Standing::default();
        hubs.iter().filter_map(Weak::upgrade).for_each(|hub| hub.add_to(&mut sum));
        (sum.servers > 0).then_some(sum)
    }
}
