//! A disk that keeps nothing.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::sync::Arc;
use ublk_core::backend::{Backend, Null};
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "null",
    below: Below::Anything,
    usual: Some(("null", Null::COPY_MODES)),
    read: read::<Options>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    size: Bytes,
}

impl Plan for Options {
    fn open(&self, _how: &Opening) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Null::new(self.size.0)))
    }
}
