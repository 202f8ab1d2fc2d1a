//! The options, with their defaults.

use super::limits;
#[cfg(feature = "serde")]
use super::read;
use crate::abi::sys;
use crate::features::Features;
use crate::pages::Pages;
use crate::queue::{CopyMode, Transport};
use std::time::Duration;

/// The options of a device. `None`: the default, which may depend on the backend.
///
/// Later versions add fields. Take the rest from the default, and what you write compiles with them, too:
///
/// ```
/// use ublk_core::Spec;
///
/// let spec = Spec { queues: 4, read_only: true, ..Spec::default() };
/// assert_eq!(spec.depth, 128);
/// ```
///
/// With the feature `serde` it can be read from JSON. Its fields are in camel case then, and its values those of the
/// package's options in JavaScript: `{ "queues": 4, "readOnly": true, "copy": "auto", "poll": 50 }`.
#[derive(Debug, Clone)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize),
    serde(default, rename_all = "camelCase", deny_unknown_fields)
)]
pub struct Spec {
    /// The device's number, at most [`MAX_ID`](limits::MAX_ID). `None`: the driver picks a free one.
    pub id: Option<u32>,
    /// Hardware queues: 1 to [`MAX_QUEUES`](limits::MAX_QUEUES). The driver keeps at most one per CPU.
    pub queues: u32,
    /// Requests in flight per queue: 1 to [`MAX_DEPTH`](limits::MAX_DEPTH).
    pub depth: u32,
    /// Logical block size in bytes: one of [`BLOCK_SIZES`](limits::BLOCK_SIZES).
    pub block_size: Option<u32>,
    /// Physical block size in bytes: a power of two from the logical one to
    /// [`MAX_PHYSICAL_BLOCK_SIZE`](limits::MAX_PHYSICAL_BLOCK_SIZE).
    pub physical_block_size: Option<u32>,
    /// Largest request in bytes: a multiple of [`MIN_MAX_IO`](limits::MIN_MAX_IO), at most
    /// [`MAX_MAX_IO`](limits::MAX_MAX_IO).
    pub max_io: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// Announce a volatile write cache: completed writes may be lost in a power failure until a flush.
    pub write_cache: Option<bool>,
    /// Announce that seeking is slow.
    pub rotational: bool,
    /// Whether to advertise discard and write-zeroes.
    pub discard: Option<bool>,
    /// The smallest area that a discard frees, in bytes: a multiple of the block size, at most
    /// [`MAX_DISCARD_GRANULARITY`](limits::MAX_DISCARD_GRANULARITY).
    pub discard_granularity: Option<u32>,
    /// The largest discard in bytes: a multiple of the block size, at most [`MAX_DISCARD`](limits::MAX_DISCARD).
    pub max_discard: Option<u64>,
    /// What happens to the disk when its server ends. `None`: it is removed.
    pub recovery: Option<Recovery>,
    /// Whether the kernel looks for partitions when the disk appears. `false` needs 7.0.
    pub partition_scan: bool,
    /// Which threads serve the queues, if the backend has engines.
    pub threads: Threads,
    /// Whether it can [share memory](crate::Device::share) with its clients (7.1).
    pub shared_memory: bool,
    /// How many threads serve each queue with [`Threads::Own`]: 1 to
    /// [`MAX_THREADS_PER_QUEUE`](limits::MAX_THREADS_PER_QUEUE), and at most its depth. With [`Transport::PerIo`] the tags
    /// are divided among them; with [`Transport::Batch`] a thread gets the requests that the others are too busy for. More
    /// than one needs 6.16.
    pub threads_per_queue: u32,
    /// Whether [`Threads::Own`] of a device with several queues are pinned to the CPUs whose requests come to their queue.
    /// `None`: unless they poll, since a polling thread would take the CPU from the process that sends the requests.
    pub affinity: Option<bool>,
    /// How long a queue's thread busy-polls after it had work before it sleeps: at most
    /// [`MAX_POLL`](limits::MAX_POLL) microseconds. Polling that finds nothing becomes rare. Not for shared threads, nor if
    /// the thread may use only one CPU.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "read::microseconds"))]
    pub poll: Duration,
    /// How the pages of the I/O buffers are allocated.
    pub buffers: Pages,
    /// How requests come from the driver and answers go back. `None`: the faster one.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "read::transport"))]
    pub transport: Option<Transport>,
    /// How the data of requests gets to the backend and back. `None`: the best possible one.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "read::copy_mode"))]
    pub copy: Option<CopyMode>,
}

/// Which threads serve the queues of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Threads {
    /// One thread for each queue.
    #[default]
    Own,
    /// A few threads, for the queues of all devices of this process with this value.
    Shared,
}

/// What happens to a disk's requests after its server has ended, until another one takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Recovery {
    /// New requests wait; those in flight fail (6.1).
    Requeue,
    /// New requests wait; those in flight are sent again (6.1). Only for a backend that may get a write twice.
    Reissue,
    /// All requests fail until another server has taken over (6.13).
    Fail,
}

impl Recovery {
    pub(super) fn flags(self) -> u64 {
        let extra = match self {
            Self::Requeue => 0,
            Self::Reissue => sys::UBLK_F_USER_RECOVERY_REISSUE,
            Self::Fail => sys::UBLK_F_USER_RECOVERY_FAIL_IO,
        };
        (sys::UBLK_F_USER_RECOVERY | extra).into()
    }

    /// The recovery mode of a device with these flags.
    pub(super) fn of(flags: Features) -> Option<Self> {
        [Self::Reissue, Self::Fail, Self::Requeue].into_iter().find(|recovery| flags.has(recovery.flags()))
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            id: None,
            queues: limits::DEFAULT_QUEUES,
            depth: limits::DEFAULT_DEPTH,
            block_size: None,
            physical_block_size: None,
            max_io: limits::DEFAULT_MAX_IO,
            read_only: false,
            write_cache: None,
            rotational: false,
            discard: None,
            discard_granularity: None,
            max_discard: None,
            recovery: None,
            partition_scan: true,
            threads: Threads::default(),
            shared_memory: false,
            threads_per_queue: 1,
            affinity: None,
            poll: Duration::ZERO,
            buffers: Pages::default(),
            transport: None,
            copy: None,
        }
    }
}
