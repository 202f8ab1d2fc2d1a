//! What a lazy disk has done so far, and how much of it is there.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What filling the disk without being asked has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filling {
    /// Nobody wished it.
    #[default]
    Off,
    /// It is under way.
    Running,
    /// The source failed; it is tried again.
    Waiting,
    /// All is there.
    Complete,
    /// The cache is full.
    Full,
}

/// A lazy disk at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Of the disk, in bytes.
    pub size: u64,
    /// Bytes fetched at a time at least.
    pub chunk: u64,
    /// Bytes that are in the cache.
    pub present: u64,
    /// Bytes of chunks that clients wrote, which are never evicted. Only a bounded cache knows.
    pub dirty: Option<u64>,
    /// The most bytes that the cache holds, if it is bounded.
    pub max: Option<u64>,
    /// How often the source was asked.
    pub fetches: u64,
    /// Bytes that it gave.
    pub fetched: u64,
    /// How often it failed.
    pub failures: u64,
    /// Bytes that were evicted.
    pub evicted: u64,
    /// The background fill.
    pub filling: Filling,
}

#[derive(Default)]
pub struct Counters {
    fetches: AtomicU64,
    fetched: AtomicU64,
    failures: AtomicU64,
    evicted: AtomicU64,
}

impl Counters {
    pub fn asked(&self) {
        self.fetches.fetch_add(1, Relaxed);
    }

    pub fn given(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Relaxed);
    }

    pub fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub fn evicted(&self, bytes: u64) {
        self.evicted.fetch_add(bytes, Relaxed);
    }

    /// Fetches, bytes fetched, failures, bytes evicted.
    pub fn now(&self) -> [u64; 4] {
        [&self.fetches, &self.fetched, &self.failures, &self.evicted].map(|counter| counter.load(Relaxed))
    }
}
