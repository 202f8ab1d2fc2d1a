//! A disk that records which of its blocks were changed.

use super::plan::{Opening, Plan, Stack};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, Tracked};
use ublk_core::claim::Role;
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind { name: "tracked", below: Below::Nothing, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    disk: Stack,
    /// The file of its change map.
    map: String,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Tracked::open(self.disk.open(how)?, Path::new(&self.map), how.read_only)?))
    }

    fn files(&self) -> Vec<(Role, String)> {
        let mut files = self.disk.files();
        files.push((Role::Map, self.map.clone()));
        files
    }
}
