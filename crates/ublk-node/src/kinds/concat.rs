//! Disks one after another.

use super::plan::{Opening, Plan, Stack};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::sync::Arc;
use ublk_core::backend::{Backend, Concat};
use ublk_core::claim::Role;
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind { name: "concat", below: Below::Anything, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    disks: Vec<Stack>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let disks = self.disks.iter().map(|disk| disk.open(how)).collect::<Result<_>>()?;
        Ok(Arc::new(Concat::new(disks)?))
    }

    fn files(&self) -> Vec<(Role, String)> {
        self.disks.iter().flat_map(Stack::files).collect()
    }
}
