//! Where a disk's data lives. A backend describes the disk; each queue gets an engine of it.

mod external;
mod file;
mod lazy;
mod memory;
mod null;
mod observed;
mod shared_memory;

pub use external::External;
pub use file::File;
pub use lazy::{Fill, Found, Identity, Lazy, Map, Source};
pub use memory::Memory;
pub use null::Null;
pub use observed::{Change, Observed, Observer};
pub use shared_memory::SharedMemory;

use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{CopyMode, Io, Outcome, Ticket, Waker};
use crate::report::Reporter;
use std::io;
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

/// What a device wants of the memory that it reads and writes. By default, nothing. How many segments it takes, and how
/// large they may be, is no matter of this: the block layer cuts requests to size itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alignment {
    /// Bytes: where memory may begin. A power of two; 0: anywhere.
    pub start: u32,
    /// A memory segment of a request may end, and the next begin, only at a multiple of this, in bytes; 0: anywhere.
    pub gap: u64,
}

/// A disk's storage, shared by its queues.
pub trait Backend: Send + Sync {
    /// The disk it offers.
    fn properties(&self) -> Properties;

    /// How its engines can be given the data of requests, the best first.
    fn copy_modes(&self) -> &'static [CopyMode] {
        &[CopyMode::Copy]
    }

    /// What direct operations on its files ask of the pages they work on, where the data is not copied.
    fn alignment(&self) -> Alignment {
        Alignment::default()
    }

    /// The files its engines use through the ring, in the order of their [`Slot`](crate::queue::Slot)s.
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// The files and block devices that hold its data, including those of backends below it: they are claimed while a
    /// device serves them, and identify the disk when it is recovered.
    fn places(&self) -> Vec<Place<'_>>;

    /// The part that serves one queue, made and used on that queue's thread.
    fn engine(&self, site: &Site) -> Result<Box<dyn Engine + '_>>;

    /// Grows or shrinks the disk from `from` to `to` bytes. The common part keeps its data; added bytes are zeroes,
    /// whatever the file had there. Called while its engines serve, by one thread at a time. If it fails, nothing has
    /// changed.
    fn resize(&self, from: u64, to: u64) -> Result<()> {
        let _ = (from, to);
        Err(Error::new(ErrorKind::Unsupported, "this disk's backend cannot be resized"))
    }

    /// This process stops serving the device: makes durable what has to survive. May block. A failure is reported to
    /// the device's owner.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A backend that others can keep their data in, beside what its engines do.
pub trait Storage: Backend {
    /// Writes to it. May block; on any thread but a queue's.
    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes all earlier writes durable. May block. If it fails, or [`intact`](Self::intact) does, data written since
    /// the last success may be lost.
    fn sync(&self) -> io::Result<()>;

    /// Whether no written data was lost since the last call: the kernel may drop pages that it could not write back.
    /// Does not block, and reports each failure once.
    fn intact(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The queue that an engine is to serve.
#[derive(Debug, Clone)]
pub struct Site {
    /// How many requests it holds.
    pub depth: u16,
    /// The device has no write cache: every write has to be durable before it is committed.
    pub durable: bool,
    /// Makes the queue ask [`Engine::ready`]. For any thread.
    pub waker: Waker,
    /// Reports errors that belong to no request to the device's owner.
    pub reporter: Reporter,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is finished.
    Done(Outcome),
    /// An operation in the ring will go on with it, or something that [`Engine::ready`] tells of.
    Pending,
}

/// Serves the requests of one queue. Never blocks: what would, goes through the ring.
pub trait Engine {
    /// Starts a request.
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step>;

    /// Goes on after what the request waited for finished with `result`.
    fn resume(&mut self, io: &mut Io<'_>, result: i32) -> Result<Step> {
        let _ = (io, result);
        Ok(Step::Done(Err(libc::EIO)))
    }

    /// A request that waited for something outside the ring, and the result to resume it with. Asked after each
    /// wake, until there is none.
    fn ready(&mut self) -> Option<(Ticket, i32)> {
        None
    }
}
