//! The configuration of a queue.

use super::line::SharedLine;
use super::{ClientMemories, Mode, TagShare, ThreadCommon};
use crate::pages::Pages;
use crate::telemetry::{QueueCounters, Tracer};
use crate::waker::Waker;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// See the [module](self).
pub struct Config {
    /// Its number.
    pub index: u16,
    /// Its depth.
    pub depth: u16,
    /// The tags that this thread serves: with [`Transport::Batch`](super::Transport::Batch) any tag that it gets.
    pub part: TagShare,
    /// The same for all parts of the queue.
    pub common: ThreadCommon,
    /// Bytes in each buffer.
    pub max_io: u32,
    /// How the buffers' pages are allocated, unless requests use their own pages.
    pub pages: Pages,
    /// How the device was made.
    pub mode: Mode,
    /// Makes the driver fail to register the pages of requests.
    #[cfg(feature = "testing")]
    pub only_by_hand: bool,
    /// What the device shares with its clients.
    pub shared: Arc<ClientMemories>,
    /// How long a turn may busy-poll before it sleeps.
    pub poll: Duration,
    /// Makes a sleeping turn return.
    pub waker: Waker,
    /// Whether the queue, once woken, is to answer its requests and to leave all others to the next server. Only with
    /// [`Transport::Batch`](super::Transport::Batch) and a device that reissues requests.
    pub hands_over: Arc<AtomicBool>,
    /// Its counters.
    pub counters: Arc<QueueCounters>,
    /// The listeners that get each request.
    pub tracer: Arc<Tracer>,
}

/// What an engine needs of its queue.
pub struct Needs {
    /// The descriptors that it uses through the ring, in slots 1 and up.
    pub files: Vec<RawFd>,
    /// How many more it may [add](super::Files::add) while it serves.
    pub spare_files: u16,
    /// How many operations a request may have in the ring at a time.
    pub operations: u16,
    /// How many places of a request's data its operations may name in all, where data is scattered.
    pub segments: u16,
    /// Its lines.
    pub lines: Vec<SharedLine>,
}

impl fmt::Debug for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, spare_files, operations, segments, lines } = self;
        write!(f, "Needs({files:?}, {spare_files}, {operations}, {segments}, {})", lines.len())
    }
}

impl Default for Needs {
    fn default() -> Self {
        Self { files: Vec::new(), spare_files: 0, operations: 1, segments: 0, lines: Vec::new() }
    }
}
