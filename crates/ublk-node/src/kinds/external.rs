//! A disk that is served by the threads that take the queues which `start` hands out.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Kind, read};
use serde::Deserialize;
use std::sync::Arc;
use ublk_core::backend::{Backend, Discard, External, Properties};
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "external",
    below: false,
    usual: Some(("javascript", External::COPY_MODES)),
    read: read::<Options>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Options {
    size: Bytes,
    /// The smallest unit that it reads or writes, in bytes. Default: 512.
    block_size: Option<u32>,
    /// Whether completed writes may be lost until a flush.
    write_cache: Option<bool>,
    discard: Option<bool>,
    write_zeroes: Option<bool>,
}

impl Plan for Options {
    fn open(&self, _how: &Opening) -> Result<Arc<dyn Backend>> {
        const MOST: u64 = 1 << 30;
        let limit = |able: Option<bool>| if able.unwrap_or(false) { MOST } else { 0 };
        let (max, max_write_zeroes) = (limit(self.discard), limit(self.write_zeroes));
        Ok(Arc::new(External::new(Properties {
            block_size: self.block_size.unwrap_or(512),
            write_cache: self.write_cache.unwrap_or(false),
            discard: (max > 0 || max_write_zeroes > 0).then_some(Discard {
                granularity: 4096,
                alignment: 0,
                max,
                max_write_zeroes,
            }),
            ..Properties::new(self.size.0)
        })))
    }
}
