//! A disk that is served by the threads that take the queues which `start` hands out.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::sync::Arc;
use ublk_core::backend::{Backend, Discard, External, Properties, Segments};
use ublk_core::error::{Error, Result};

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "external",
    below: Below::Nothing,
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
    #[serde(default)]
    limits: Limits,
}

/// Limits of its requests; those that are missing do not exist.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Limits {
    chunk: Option<Bytes>,
    optimal_io: Option<Bytes>,
    max_segments: Option<u16>,
    max_segment_size: Option<Bytes>,
    segment_boundary: Option<Bytes>,
}

/// A limit that has 32 bits in the engine.
fn narrow(name: &str, limit: Option<&Bytes>) -> Result<u32> {
    limit.map_or(Ok(0), |bytes| {
        u32::try_from(bytes.0)
            .map_err(|_| Error::invalid(format!("the backend's {name} {} is too large", bytes.0)))
    })
}

impl Plan for Options {
    fn open(&self, _how: &Opening) -> Result<Arc<dyn Backend>> {
        const MOST: u64 = 1 << 30;
        let limits = &self.limits;
        let limit = |able: Option<bool>| if able.unwrap_or(false) { MOST } else { 0 };
        let (max, max_write_zeroes) = (limit(self.discard), limit(self.write_zeroes));
        Ok(Arc::new(External::new(Properties {
            block_size: self.block_size.unwrap_or(512),
            chunk: narrow("chunk", limits.chunk.as_ref())?,
            optimal_io: narrow("optimal I/O", limits.optimal_io.as_ref())?,
            segments: Segments {
                most: limits.max_segments.unwrap_or(0),
                size: narrow("segment size", limits.max_segment_size.as_ref())?,
                boundary: limits.segment_boundary.as_ref().map_or(0, |bytes| bytes.0),
            },
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
