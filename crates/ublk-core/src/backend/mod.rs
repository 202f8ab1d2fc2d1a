//! What stores a disk's data. A backend describes the disk; each queue gets its own engine of it. A backend can consist of
//! others: a layer over one, such as [`Observed`], or several together, such as [`Stripe`].

mod asynchronous;
mod bits;
pub(crate) mod bounced;
mod changes;
mod concat;
mod crash;
mod engine;
mod external;
mod faults;
mod file;
mod identity;
mod in_memory;
#[cfg(test)]
mod later;
mod lazy;
mod map_file;
mod memory;
mod memory_file;
pub(crate) mod mirror;
mod nbd;
mod new_file;
mod null;
mod numbers;
mod observed;
mod overlay;
mod parts;
pub(crate) mod reader;
mod recorder;
mod shares;
mod slice;
mod stage;
mod stripe;
#[cfg(test)]
mod taken_back;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tracked;
mod unbound;

pub use asynchronous::{Async, AsyncDisk};
pub use changes::{Changed, Changes, Checkpoint, Sink};
pub use concat::Concat;
pub use crash::{Bounds, Choice, How, LogData, Lost, Model, State, States, View, account};
pub use engine::{Below, Engine, PartDone, PerCall, Site};
pub use external::External;
pub use faults::{Delay, Effect, Faults, Limit, MOST_RULES, Ops, Rule, Tally};
pub use file::File;
pub use lazy::{FileSource, Fill, Filling, Found, Handle, Identity, Lazy, Map, Progress, Source};
pub use map_file::Stamp;
pub use memory::Memory;
pub use memory_file::MemoryFile;
pub use mirror::{Mirror, SideInfo};
pub use nbd::{Nbd, NbdOptions, NbdServers, NbdStanding, Qemu};
pub use null::Null;
pub use observed::{Change, Observed, Observer};
pub use overlay::{Commit, FlattenProgress, LayerInfo, Overlay, Parent, Prepared, Saved, Shape, Upper, Uuid};
pub use parts::Parts;
pub use recorder::{
    Completed, ContentMap, Exported, Flush, Log, LogMemory, Mark, Moment, Origin, RecordedLog, Recorder,
    Trigger, Write,
};
pub use slice::Slice;
pub use stage::{Stage, Stages};
pub use stripe::Stripe;
pub use tracked::Tracked;
pub use unbound::Unbound;

pub use crate::claim::{Place, Role};
pub use crate::queue::{
    Completer, Completion, CopyMode, Errno, Files, Flags, Held, Io, Key, Lease, Line, LineId, LineIo, Needs,
    Op, Outcome, Piece, Scatter, SharedLine, Slot, Step, Stretch, Token,
};

use crate::error::{Error, ErrorKind, Result};
use std::fs;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What a backend can do with ranges that are no longer needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discard {
    /// Bytes: smaller or unaligned parts may be kept.
    pub granularity: u32,
    /// Bytes: where the first unit of that size begins; below the granularity.
    pub alignment: u32,
    /// Bytes: the most that one discard may cover; 0: cannot discard.
    pub max: u64,
    /// Bytes: the most that one write-zeroes may cover; 0: cannot.
    pub max_write_zeroes: u64,
}

/// The properties of a disk, from its backend.
#[derive(Debug, Clone, Copy)]
pub struct Properties {
    /// Bytes.
    pub size: u64,
    /// Bytes: the smallest unit the backend can read or write.
    pub block_size: u32,
    /// Whether completed writes may be lost in a power failure until a flush.
    pub write_cache: bool,
    /// `None`: neither discard nor write-zeroes is advertised.
    pub discard: Option<Discard>,
    /// The alignment of memory that direct operations on its files require, if the data is not copied.
    pub alignment: Alignment,
    /// Bytes: no request crosses a multiple of this. A multiple of the block size; 0: any may.
    pub chunk: u32,
    /// Bytes: requests of this size, or of a multiple, cost least. 0: none costs less than others.
    pub optimal_io: u32,
    /// Bytes: what it writes whole or not at all, even if the power fails. 0: it does not say.
    pub physical_block: u32,
    /// The limits of a request's memory segments.
    pub segments: Segments,
}

impl Properties {
    /// A disk of `size` bytes with blocks of 512, without write cache, that cannot discard.
    pub const fn new(size: u64) -> Self {
        Self {
            size,
            block_size: 512,
            write_cache: false,
            discard: None,
            alignment: Alignment { start: 0, gap: 0 },
            chunk: 0,
            optimal_io: 0,
            physical_block: 0,
            segments: Segments { most: 0, size: 0, boundary: 0 },
        }
    }
}

/// The alignment that a device requires of the memory that it reads and writes. By default, none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alignment {
    /// Bytes: where memory may begin. A power of two; 0: anywhere.
    pub start: u32,
    /// A memory segment of a request may end, and the next begin, only at a multiple of this, in bytes; 0: anywhere.
    pub gap: u64,
}

/// Limits of the memory segments, parts that are contiguous in memory, of which a request's data consists. The kernel splits
/// requests that exceed them. By default, none. Only for a backend that uses the pages of requests in place, and passes them
/// to something that has such limits: the kernel's own block devices, such as those below [`File`], split what they get
/// themselves. (Since Linux 6.16; on older kernels a device with limits cannot be created.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segments {
    /// The most segments of a request; 0: any number.
    pub most: u16,
    /// Bytes: the most in one segment, at least 4096; 0: any number.
    pub size: u32,
    /// Bytes: no segment crosses a multiple of this. A power of two, at least 4096; 0: any may.
    pub boundary: u64,
}

impl Segments {
    /// Whether there is none.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// The limits that satisfy both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            most: stricter(self.most, other.most),
            size: stricter(self.size, other.size),
            boundary: stricter(self.boundary, other.boundary),
        }
    }

    /// Whether everything within these limits is within `others`, too.
    pub fn are_within(&self, others: &Self) -> bool {
        self.and(others) == *self
    }
}

/// The smaller of two limits, of which 0 is none.
fn stricter<T: Ord + Default>(one: T, other: T) -> T {
    if one == T::default() {
        other
    } else if other == T::default() {
        one
    } else {
        one.min(other)
    }
}

/// A range of a file or block device that holds data of a disk.
#[derive(Debug, Clone)]
pub struct Extent<'a> {
    /// The file or block device.
    pub place: Place<'a>,
    /// Which of its bytes.
    pub range: Range<u64>,
}

/// A disk's storage, shared by its queues.
pub trait Backend: Send + Sync + 'static {
    /// The disk it offers.
    fn properties(&self) -> Properties;

    /// The copy modes that its engines support, the best first.
    fn copy_modes(&self) -> Vec<CopyMode> {
        vec![CopyMode::Copy]
    }

    /// Whether its engines take pieces whose data is [scattered](Piece::scatter). By default, no.
    fn takes_scattered(&self) -> bool {
        false
    }

    /// The files and block devices that hold its data, including those of backends below it: they are claimed while a
    /// device serves them, and identify the disk when it is recovered.
    fn places(&self) -> Vec<Place<'_>>;

    /// Where the data of a part of the disk is in its [places](Self::places). By default, at the same offsets.
    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        let holds_data = |place: &Place<'_>| place.role == Role::Disk;
        let extent = |place| Extent { place, range: part.clone() };
        self.places().into_iter().filter(holds_data).map(extent).collect()
    }

    /// Whether all that is written to it is in its [places](Self::places), and nothing only in this process's memory.
    fn is_in_files(&self) -> bool {
        !self.places().is_empty()
    }

    /// What tells its content from another: for an overlay, which was written over one content and fits no other. By
    /// default, the sizes of its files and when they were changed.
    fn identity(&self) -> Result<String> {
        identity::of_files(self)
    }

    /// The engine that serves one queue, created and used on that queue's thread.
    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>>;

    /// Grows or shrinks the disk from `from` to `to` bytes. The common part keeps its data; added bytes read as zeroes, even if
    /// the file had other data there. Called while its engines serve, by one thread at a time. If it fails, nothing has
    /// changed.
    fn resize(&self, from: u64, to: u64) -> Result<()> {
        let _ = (from, to);
        Err(Error::new(ErrorKind::Unsupported, "this disk's backend cannot be resized"))
    }

    /// The same for a disk whose size is also the driver's: `tell` gives the driver a size. The disk never has more than its
    /// backend. What a backend refuses because of something else that is done to it, it refuses before the driver is told:
    /// requests beyond a new end fail at once.
    fn resize_told(&self, from: u64, to: u64, tell: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        resize_in_order(from, to, tell, &|from, to| self.resize(from, to))
    }

    /// Keeps the present content under a name, while its engines serve: what was answered before is in the snapshot, and what is
    /// started afterwards is not. Only one thread at a time. If it fails, nothing has changed.
    ///
    /// Calls `now` once, when nothing can fail any more, immediately before that instant: every change that is not in the
    /// snapshot ends after this call.
    fn snapshot(self: Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        let _ = (name, now);
        Err(Error::new(ErrorKind::Unsupported, "this disk has no snapshots")
            .hint("an overlay with an upper in a file has them"))
    }

    /// Throws away what was written since the last snapshot, while its engines serve: requests wait meanwhile. Only one thread
    /// at a time.
    fn reset(&self) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this disk cannot be reset").hint("an overlay can"))
    }

    /// Copies to what is written all that it lacks, while its engines serve, so that it needs neither its base nor its
    /// snapshots: at most `rate` bytes a second. Blocks until that is done, it fails, it is `given_up`, or the disk is not served
    /// any more. What was copied stays: the next one goes on from there. Nobody makes a snapshot, resets or resizes the
    /// disk meanwhile: that is refused.
    fn flatten(self: Arc<Self>, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        let _ = (rate, given_up);
        Err(Error::new(ErrorKind::Unsupported, "this disk cannot be flattened")
            .hint("an overlay with an upper in a file can"))
    }

    /// How far that has come, while it is under way.
    fn flattening(&self) -> Option<FlattenProgress> {
        None
    }

    /// Puts into the file of the base all that was written before, while its engines serve, and removes the layers that had it.
    /// Blocks until that is done, it fails, it is given up, or the disk is not served any more. Nobody makes a snapshot, resets
    /// or resizes the disk meanwhile: that is refused.
    fn commit(self: Arc<Self>, how: &Commit<'_>) -> Result<()> {
        let _ = how;
        Err(Error::new(ErrorKind::Unsupported, "this disk cannot be committed")
            .hint("an overlay with an upper in a file, over an image file, can"))
    }

    /// How far that has come, while it is under way.
    fn committing(&self) -> Option<FlattenProgress> {
        None
    }

    /// Fills the sides of a mirror that lack something, while its engines serve: at most `rate` bytes a second. Blocks until that is
    /// done, it fails, or it is `given_up`.
    fn resync(&self, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        let _ = (rate, given_up);
        Err(Error::new(ErrorKind::Unsupported, "this disk cannot be resynced").hint("a mirror can"))
    }

    /// How far that has come, while it is under way.
    fn resyncing(&self) -> Option<FlattenProgress> {
        None
    }

    /// The sides of a mirror, in their order; another disk has none.
    fn sides(&self) -> Vec<SideInfo> {
        Vec::new()
    }

    /// The file that has the disk's bytes at their own offsets, if there is one: it can be written beside the engines.
    fn plain_file(&self) -> Option<&std::fs::File> {
        None
    }

    /// What was written over a base, the lowest layer first; only an overlay has some.
    fn layers(&self) -> Vec<LayerInfo> {
        Vec::new()
    }

    /// How much of each cell of so many bytes was written over a base: 0 none, 255 all. `None` of a disk that is no overlay. The
    /// time that it takes does not depend on the size of the disk; it disturbs no queue.
    fn written_shares(&self, cell: u64) -> Option<Vec<u8>> {
        let _ = cell;
        None
    }

    /// Whether other threads than the device's serve its queues.
    fn is_external(&self) -> bool {
        false
    }

    /// Whether the disk is empty until its device is [bound](crate::Device::bind) to another backend.
    fn is_unbound(&self) -> bool {
        false
    }

    /// Ends what was begun with it in the background, such as a flatten, before its queues leave. That goes on later from where
    /// it was.
    ///
    /// # Errors
    /// Busy: it has not ended after `patience`.
    fn interrupt(&self, patience: Duration) -> Result<()> {
        let _ = patience;
        Ok(())
    }

    /// Called when its queues have ended and another process may serve the device: lets go of what that needs, such as a lock.
    /// From here on nothing in its files is changed, unless it [takes them back](Self::take_back).
    fn let_go(&self) {}

    /// Called before queues are made: takes back what it [let go of](Self::let_go). Another process may have changed its files
    /// meanwhile, and resized the disk, which has `size` bytes now: a backend that can be [resized](Self::resize) has that size
    /// from here on. The device is not served with a backend that has less.
    fn take_back(&self, size: u64) -> Result<()> {
        let _ = size;
        Ok(())
    }

    /// Called when its files are claimed, after it has [taken them back](Self::take_back): fails if somebody has changed them
    /// meanwhile in a way that makes the disk another one. One that consists of other disks asks each of them.
    fn check_claimed(&self) -> Result<()> {
        Ok(())
    }

    /// Which of its blocks were changed since its checkpoints, if it keeps a record of that. By default, it keeps none.
    fn changes(&self) -> Option<&dyn Changes> {
        None
    }

    /// Called when this process stops serving the device: makes durable what must survive. May block. A failure is reported
    /// to the device's owner.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Resizes a backend with `resize`, and the driver's disk with `tell`, in an order in which the disk never has more.
pub fn resize_in_order(
    from: u64,
    to: u64,
    tell: &dyn Fn(u64) -> Result<()>,
    resize: &dyn Fn(u64, u64) -> Result<()>,
) -> Result<()> {
    if to > from {
        resize(from, to)?;
        return tell(to).inspect_err(|_| {
            let _ = resize(to, from); // the first failure is reported
        });
    }
    tell(to)?;
    resize(from, to).inspect_err(|_| {
        let _ = tell(from); // the backend still has what lies behind the new end
    })
}

/// A backend in which others can store data, beside the requests of its engines.
pub trait Storage: Backend {
    /// Called before a disk is served with it: the map that says which of its data counts is durable. A new file gets its
    /// length only now, since one that has it counts as used, and so does its map.
    fn begin(&self) -> Result<()> {
        Ok(())
    }

    /// Writes to it. May block, so it must not be called on a queue's thread.
    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes all earlier writes durable. May block. If it fails, or [`intact`](Self::intact) does, data written since
    /// the last success may be lost.
    fn sync(&self) -> io::Result<()>;

    /// The file that it is, if that is in memory: a write to it waits for no device, so an engine may make it at once, with the data
    /// of several requests.
    fn file_in_memory(&self) -> Option<&fs::File> {
        None
    }

    /// Gives the space of a range back to the system: it reads as zeroes. May block; on any thread but a queue's. Nobody
    /// uses the range meanwhile.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let _ = (offset, length);
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    /// The least space that the system allocates and frees at once, in bytes. May block.
    fn unit(&self) -> u64 {
        4096
    }

    /// Whether no written data was lost since the last call: the kernel may drop pages that it could not write back.
    /// Does not block, and reports each failure once.
    fn intact(&self) -> io::Result<()> {
        Ok(())
    }
}
/// A [`Storage`] that can be read beside the requests of its engines, too.
pub trait Readable: Storage {
    /// Fills a buffer from an offset on. May block, so it must not be called on a queue's thread.
    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}
