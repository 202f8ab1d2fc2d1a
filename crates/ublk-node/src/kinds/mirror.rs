//! Disks with the same data.

use super::plan::{Opening, Plan, Stack};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, Mirror};
use ublk_core::claim::Role;
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind { name: "mirror", below: Below::Anything, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    disks: Vec<Stack>,
    /// The path of the map.
    bitmap: Option<String>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let disks = self.disks.iter().map(|disk| disk.open(how)).collect::<Result<_>>()?;
        Ok(Arc::new(Mirror::new(disks, self.bitmap.as_deref().map(Path::new), how.read_only)?))
    }

    fn files(&self) -> Vec<(Role, String)> {
        let map = self.bitmap.iter().map(|path| (Role::Map, path.clone()));
        self.disks.iter().flat_map(Stack::files).chain(map).collect()
    }
}
