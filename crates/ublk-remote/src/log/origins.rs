//! Where a volume's objects are: its own store, and those of the volumes whose clone it is, of which it only reads.

use super::format::{LogId, Volume};
use crate::store::{Store, StoreCounters};
use std::sync::Arc;
use ublk_core::error::Result;

/// Opens the store at a URL.
pub type Opener = Arc<dyn Fn(&str) -> Result<Arc<dyn Store>> + Send + Sync>;

/// See the [module](self).
pub struct Origins {
    own: Arc<dyn Store>,
    /// The farthest first, each with the last epoch of which objects are there.
    parents: Vec<(u32, Arc<dyn Store>)>,
}

impl Origins {
    /// Of a volume. Asks no server.
    pub fn open(own: Arc<dyn Store>, info: &Volume, opener: &Opener) -> Result<Self> {
        let parents = info.parents.iter().map(|parent| Ok((parent.at.epoch, opener(&parent.url)?)));
        Ok(Self { own, parents: parents.collect::<Result<_>>()? })
    }

    /// Where an object of the log is.
    pub fn of(&self, id: LogId) -> &Arc<dyn Store> {
        let parent = self.parents.iter().find(|(until, _)| id.epoch <= *until);
        parent.map_or(&self.own, |(_, store)| store)
    }

    /// The volume's own.
    pub fn own(&self) -> &Arc<dyn Store> {
        &self.own
    }

    /// The one of a parent.
    pub fn parent(&self, number: usize) -> Option<&Arc<dyn Store>> {
        self.parents.get(number).map(|(_, store)| store)
    }

    /// What was asked of all of them.
    pub fn counters(&self) -> StoreCounters {
        let parents = self.parents.iter().map(|(_, store)| store.counters());
        parents.fold(self.own.counters(), |sum, one| StoreCounters {
            puts: sum.puts + one.puts,
            gets: sum.gets + one.gets,
            lists: sum.lists + one.lists,
            deletes: sum.deletes + one.deletes,
            failures: sum.failures + one.failures,
            bytes_up: sum.bytes_up + one.bytes_up,
            bytes_down: sum.bytes_down + one.bytes_down,
        })
    }
}
