//! Where a disk's data lives. A backend describes the disk; each queue gets an engine of it.

mod external;
mod file;
mod memory;
mod null;

pub use external::External;
pub use file::File;
pub use memory::Memory;
pub use null::Null;

use crate::error::Result;
use crate::queue::{Io, Outcome};
use std::os::fd::BorrowedFd;

/// What a backend can do with ranges that are no longer needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discard {
    /// Bytes: smaller or unaligned parts may be kept.
    pub granularity: u32,
    /// Bytes: the most that one discard may cover; 0: cannot discard.
    pub max: u64,
    /// Bytes: the most that one write-zeroes may cover; 0: cannot.
    pub max_write_zeroes: u64,
}

/// A disk as its backend sees it.
#[derive(Debug, Clone, Copy)]
pub struct Properties {
    /// Bytes.
    pub size: u64,
    /// Bytes: the smallest unit the backend can read or write.
    pub block_size: u32,
    /// A completed write may be lost with the power until a flush.
    pub write_cache: bool,
    /// `None`: neither discard nor write-zeroes is advertised.
    pub discard: Option<Discard>,
}

/// A disk's storage, shared by its queues.
pub trait Backend: Send + Sync {
    /// The disk it offers.
    fn properties(&self) -> Properties;

    /// The files its engines use through the ring, in the order of their [`Slot`](crate::queue::Slot)s.
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// The part that serves one queue, made and used on that queue's thread. `durable`: the device has no
    /// write cache, so every write has to be durable before it is committed.
    fn engine(&self, depth: u16, durable: bool) -> Result<Box<dyn Engine + '_>>;
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is finished.
    Done(Outcome),
    /// An operation in the ring will go on with it.
    Pending,
}

/// Serves the requests of one queue. Never blocks: what would, goes through the ring.
pub trait Engine {
    /// Starts a request.
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step>;

    /// Goes on after the request's operation finished with `result`.
    fn resume(&mut self, io: &mut Io<'_>, result: i32) -> Result<Step> {
        let _ = (io, result);
        Ok(Step::Done(Err(libc::EIO)))
    }
}
