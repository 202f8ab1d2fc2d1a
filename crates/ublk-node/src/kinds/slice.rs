//! A part of another disk.

use super::bytes::Bytes;
use super::plan::{Opening, Plan, Stack};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::sync::Arc;
use ublk_core::backend::{Backend, Slice};
use ublk_core::claim::Role;
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind { name: "slice", below: Below::Anything, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    disk: Stack,
    offset: Bytes,
    /// Default: to the disk's end.
    size: Option<Bytes>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let size = self.size.map(|size| size.0);
        Ok(Arc::new(Slice::new(self.disk.open(how)?, self.offset.0, size)?))
    }

    fn files(&self) -> Vec<(Role, String)> {
        self.disk.files()
    }
}
