//! A disk that an NBD server has.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use ublk_core::backend::{Backend, Nbd, NbdOptions};
use ublk_core::error::Result;
use ublk_core::queue::CopyMode;

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "nbd",
    below: Below::Anything,
    usual: Some(("nbd", &[CopyMode::Copy])),
    read: read::<Options>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    uri: String,
    /// Milliseconds: for how long requests wait for a lost connection.
    timeout: Option<u32>,
    /// How much of what is not flushed is kept, to be sent again. Default: nothing.
    journal: Option<Bytes>,
}

/// For how long requests wait, if nothing else is asked for.
pub const TIMEOUT: u32 = 60_000;

/// How a server's disk is used.
pub fn options(how: &Opening, timeout: u32, journal: Option<Bytes>) -> NbdOptions {
    NbdOptions {
        read_only: how.read_only,
        existing: how.existing,
        timeout: Duration::from_millis(timeout.into()),
        journal: journal.map_or(0, |Bytes(bytes)| bytes),
    }
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let options = options(how, self.timeout.unwrap_or(TIMEOUT), self.journal);
        let nbd = Nbd::open(&self.uri, options)?;
        nbd.listed(&how.contents.nbd);
        Ok(Arc::new(nbd))
    }
}
