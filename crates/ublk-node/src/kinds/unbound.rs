//! A disk that gets its backend later; see `Device.bind`.

use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::sync::Arc;
use ublk_core::backend::{Backend, Unbound};
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind { name: "unbound", below: Below::Nothing, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Options {
    /// Bytes.
    block_size: u32,
}

impl Plan for Options {
    fn open(&self, _how: &Opening) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Unbound::new(self.block_size)))
    }
}
