//! How much of a lazy disk is there, for JavaScript.

use crate::number::number;
use napi_derive::napi;
use ublk_core::backend::{Filling, Progress};

/// A lazy disk at one moment.
#[napi(object)]
pub struct LazyProgress {
    /// Of the disk, in bytes.
    pub size: f64,
    /// Bytes fetched at a time at least.
    pub chunk: f64,
    /// Bytes that are in the cache.
    pub present: f64,
    /// Bytes of chunks that clients wrote; `null` if the cache has no bound.
    pub dirty: Option<f64>,
    /// The most bytes that the cache holds; `null` if it has no bound.
    pub max: Option<f64>,
    /// How often the source was asked.
    pub fetches: f64,
    /// Bytes that it gave.
    pub fetched: f64,
    /// How often it failed.
    pub failures: f64,
    /// Bytes that were evicted.
    pub evicted: f64,
    /// The background fill: whether it is wished, under way, waits after a failure, has all, or has filled the cache.
    #[napi(ts_type = "'off' | 'running' | 'waiting' | 'complete' | 'full'")]
    pub filling: String,
}

impl From<Progress> for LazyProgress {
    fn from(now: Progress) -> Self {
        let filling = match now.filling {
            Filling::Off => "off",
            Filling::Running => "running",
            Filling::Waiting => "waiting",
            Filling::Complete => "complete",
            Filling::Full => "full",
        };
        Self {
            size: number(now.size),
            chunk: number(now.chunk),
            present: number(now.present),
            dirty: now.dirty.map(number),
            max: now.max.map(number),
            fetches: number(now.fetches),
            fetched: number(now.fetched),
            failures: number(now.failures),
            evicted: number(now.evicted),
            filling: filling.into(),
        }
    }
}
