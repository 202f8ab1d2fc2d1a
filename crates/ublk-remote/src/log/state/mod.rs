//! What a volume knows while it is served: where everything is, what is still to be stored, and who waits for that. Knows no
//! file and no store.

mod reading;
mod records;
mod restore;
mod segment;
#[cfg(test)]
mod tests;
mod waiting;

pub use reading::{Found, Pin};
pub use segment::{Segment, Unsent, Way, Writing};
pub use waiting::{Refused, Told, Waiter};

use super::cache::{Cache, Key};
use super::format::{BLOCK, Extent, Kind, LogId, MOST_BLOCKS, MOST_EXTENTS};
use super::layout::Layout;
use super::map::{Map, Place};
use super::ring::Ring;
use super::snapshots::Snapshots;
use segment::add_extent;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::Instant;
use waiting::Waiting;

/// See the [module](self).
pub struct State {
    /// Where each block is.
    pub map: Map,
    /// By number.
    segments: Vec<Segment>,
    free: Vec<u32>,
    numbers: HashMap<LogId, u32>,
    ring: Ring,
    /// What was read.
    pub cache: Cache,
    /// Of the local file.
    pub layout: Layout,
    /// The id of the next segment that is written.
    next: LogId,
    orders: u64,
    /// The oldest first; the last one gets the next write unless it is sealed.
    unsent: VecDeque<Unsent>,
    waiting: Waiting,
    /// The blocks of all writes under way, but for moves.
    going: Vec<(Range<u64>, Way)>,
    /// Requests that wait for a chunk that is being fetched.
    pub fetching: HashMap<Key, Vec<Waiter>>,
    /// No new write begins.
    paused: bool,
    /// Nothing works any more, with this error number.
    stopped: Option<i32>,
    /// Segments that were stored since the last map, and their blocks.
    pub since_map: (u32, u64),
    /// Of the disk.
    pub blocks: u64,
    /// Where the volume's own log begins: what is before is of the volumes whose clone it is.
    pub begin: LogId,
    /// Its snapshots.
    pub snapshots: Snapshots,
    /// The newest map that is in the store.
    pub stored_map: Option<LogId>,
}

impl State {
    /// An empty disk of this number of blocks.
    pub fn new(blocks: u64, layout: Layout) -> Self {
        Self {
            map: Map::new(blocks),
            segments: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::new(),
            ring: Ring::new(layout.ring.clone()),
            cache: Cache::new(layout.slots()),
            layout,
            next: LogId::default(),
            orders: 0,
            unsent: VecDeque::new(),
            waiting: Waiting::default(),
            going: Vec::new(),
            fetching: HashMap::new(),
            paused: false,
            stopped: None,
            since_map: (0, 0),
            blocks,
            begin: LogId::default(),
            snapshots: Snapshots::default(),
            stored_map: None,
        }
    }

    /// What is written from here on gets ids from this one on.
    pub fn begin_epoch(&mut self, next: LogId) {
        self.next = next;
    }

    /// The id of the next segment.
    pub fn next_id(&self) -> LogId {
        self.next
    }

    /// The last segment that gets no more, of this epoch; `None`: there is none yet.
    pub fn last_sealed(&self) -> Option<LogId> {
        let open = self.unsent.back().filter(|last| !last.sealed);
        let after = open.map_or(self.next, |open| self.segments[open.segment as usize].id);
        after.sequence.checked_sub(1).map(|sequence| LogId { sequence, ..after })
    }

    /// The id of the segment that is written, or was last.
    #[cfg(test)]
    pub fn open_id(&self) -> LogId {
        self.unsent.back().map_or(self.next, |last| self.segments[last.segment as usize].id)
    }

    /// Whether no write begins.
    #[cfg(test)]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// A segment by its number.
    pub fn segment(&self, number: u32) -> &Segment {
        &self.segments[number as usize]
    }

    /// The number of a segment that there is.
    pub fn number(&self, id: LogId) -> Option<u32> {
        self.numbers.get(&id).copied()
    }

    /// All segments, by number.
    pub fn all(&self) -> impl Iterator<Item = (u32, &Segment)> {
        (0..).zip(&self.segments).filter(|(_, segment)| segment.used)
    }

    /// All segments that are stored.
    pub fn stored(&self) -> impl Iterator<Item = (u32, &Segment)> {
        (0..).zip(&self.segments).filter(|(_, segment)| segment.used && segment.stored)
    }

    /// A new segment, the latest.
    pub fn add(&mut self, id: LogId, header: u32, blocks: u32, stored: bool) -> u32 {
        self.orders += 1;
        let segment = Segment {
            id,
            header,
            blocks,
            order: self.orders,
            stored,
            death: id,
            used: true,
            ..Segment::default()
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.segments.push(Segment::default());
            u32::try_from(self.segments.len() - 1).unwrap_or(u32::MAX)
        });
        self.segments[number as usize] = segment;
        self.numbers.insert(id, number);
        number
    }

    /// A segment is gone: nothing of the disk is in it.
    pub fn remove(&mut self, number: u32) {
        let segment = std::mem::take(&mut self.segments[number as usize]);
        self.numbers.remove(&segment.id);
        self.cache.forget(number, segment.blocks);
        self.ring.forget(number);
        self.free.push(number);
    }

    /// Puts a part of a segment into the map.
    pub fn apply(&mut self, number: u32, extent: &Extent) {
        // The disk may have become smaller while it was on its way.
        let within = self.blocks.saturating_sub(extent.block).min(extent.blocks.into());
        let blocks = u32::try_from(within).unwrap_or(extent.blocks);
        if blocks == 0 {
            return;
        }
        let Segment { id, order, .. } = self.segments[number as usize];
        let segments = &self.segments;
        let prevails = Cell::new(id);
        let moved_from = match extent.kind {
            Kind::Moved { from, place } => match self.numbers.get(&from) {
                Some(segment) => Some(Place { segment: *segment, block: place }),
                None => return, // nothing of the disk was left there
            },
            Kind::Data | Kind::Zero => None,
        };
        let may = |offset: u32, before: Option<Place>| match moved_from {
            Some(from) => before == Some(Place { block: from.block + offset, ..from }),
            // Of writes that overlap, the one in the later segment counts, whichever is done first.
            None => before.is_none_or(|before| {
                let other = &segments[before.segment as usize];
                let may = other.order <= order;
                if !may {
                    prevails.set(prevails.get().max(other.id));
                }
                may
            }),
        };
        let place = (extent.kind != Kind::Zero).then_some(Place { segment: number, block: extent.place });
        let mut replaced = Vec::new();
        let put = self.map.set(extent.block, blocks, place, may, |place| replaced.push(place.segment));
        for segment in replaced {
            let segment = &mut self.segments[segment as usize];
            segment.live -= 1;
            segment.death = segment.death.max(id);
        }
        let own = &mut self.segments[number as usize];
        own.death = own.death.max(prevails.get());
        if place.is_some() {
            self.segments[number as usize].live += put;
        }
    }

    /// Begins a write. If it does not, it may [wait](Self::wait_for).
    pub fn begin_write(&mut self, block: u64, blocks: u32, way: Way) -> Result<Writing, Refused> {
        if let Some(errno) = self.stopped {
            return Err(Refused::Stopped(errno));
        }
        if self.paused {
            return Err(Refused::Room);
        }
        let touched = block..block + u64::from(blocks);
        if way != Way::Move && self.overlaps(&touched, way) {
            return Err(Refused::Overlap);
        }
        if let Some(open) = self.unsent.back().filter(|open| !open.sealed) {
            let full = open.extents.len() + open.pending as usize >= MOST_EXTENTS
                || self.segments[open.segment as usize].blocks + blocks > MOST_BLOCKS;
            if full {
                self.seal();
            }
        }
        if self.unsent.back().is_none_or(|last| last.sealed) {
            self.open()?;
        }
        let open = self.unsent.back_mut().ok_or(Refused::Room)?;
        open.pending += 1;
        let segment = &mut self.segments[open.segment as usize];
        let place = segment.blocks;
        segment.blocks += blocks;
        // An open segment is in the ring.
        let start = segment.local.unwrap_or_default();
        if way != Way::Move {
            self.going.push((touched, way));
        }
        Ok(Writing { block, way, segment: open.segment, id: segment.id, start, place, blocks })
    }

    /// Whether others change the same blocks in a way that does not go together with this one.
    fn overlaps(&self, blocks: &Range<u64>, way: Way) -> bool {
        self.going.iter().any(|(other, others)| {
            (way == Way::Part || *others == Way::Part) && other.start < blocks.end && blocks.start < other.end
        })
    }

    fn open(&mut self) -> Result<(), Refused> {
        let number = self.free.last().copied();
        let number = number.unwrap_or(u32::try_from(self.segments.len()).unwrap_or(u32::MAX));
        let segments = &mut self.segments;
        let start = self.ring.begin(number, |oldest| {
            let segment = &mut segments[oldest as usize];
            let free = segment.stored && segment.pins == 0;
            if free {
                segment.local = None;
            }
            free
        });
        let start = start.ok_or(Refused::Room)?;
        let id = self.next;
        self.next = id.next();
        let added = self.add(id, 0, 0, false);
        debug_assert_eq!(added, number);
        self.segments[number as usize].local = Some(start);
        self.unsent.push_back(Unsent::new(number));
        Ok(())
    }

    /// A write is done: it counts from here on.
    pub fn commit(&mut self, writing: &Writing, kind: Kind) -> Told {
        let order = self.segments[writing.segment as usize].order;
        let is_earlier = |unsent: &Unsent| self.segments[unsent.segment as usize].order < order;
        if matches!(kind, Kind::Moved { .. })
            && self.unsent.iter().any(|unsent| unsent.pending > 0 && is_earlier(unsent))
        {
            // A write that is under way in an earlier segment counts, and would find a later one in its place.
            return self.abandon(writing);
        }
        let extent = Extent { block: writing.block, blocks: writing.blocks, place: writing.place, kind };
        self.apply(writing.segment, &extent);
        self.end_write(writing, Some(extent))
    }

    /// A write has failed: nothing has changed.
    pub fn abandon(&mut self, writing: &Writing) -> Told {
        self.end_write(writing, None)
    }

    fn end_write(&mut self, writing: &Writing, extent: Option<Extent>) -> Told {
        let mut told = Told::default();
        let touched = writing.block..writing.block + u64::from(writing.blocks);
        let place = self.going.iter().position(|going| *going == (touched.clone(), writing.way));
        if let Some(place) = place {
            self.going.swap_remove(place);
            told.all(&mut self.waiting.overlap, 0);
        }
        let open = self.unsent.iter_mut().rev().find(|unsent| unsent.segment == writing.segment);
        if let Some(open) = open {
            open.pending -= 1;
            if let Some(extent) = extent {
                add_extent(&mut open.extents, extent);
            }
            if open.sealed && open.pending == 0 {
                told.ready = true;
                self.tell_settled(&mut told);
            }
        }
        told
    }

    fn tell_settled(&mut self, told: &mut Told) {
        if self.is_settled() {
            told.all(&mut self.waiting.settled, 0);
        }
    }

    /// Whether no write of a segment that gets no more is under way.
    pub fn is_settled(&self) -> bool {
        self.unsent.iter().all(|unsent| !unsent.sealed || unsent.pending == 0)
    }

    /// Has a part of the disk read as zeroes. If it does not, it may [wait](Self::wait_for).
    pub fn zero(&mut self, block: u64, blocks: u32) -> Result<Writing, Refused> {
        // Else a write that is under way in an earlier segment would count here when it is done, and not in the log.
        if !self.is_settled() {
            return Err(Refused::Unsettled);
        }
        if self.overlaps(&(block..block + u64::from(blocks)), Way::Whole) {
            return Err(Refused::Overlap);
        }
        let writing = self.begin_write(block, 0, Way::Move)?;
        let writing = Writing { blocks, place: 0, ..writing };
        let extent = Extent { block, blocks, place: 0, kind: Kind::Zero };
        self.apply(writing.segment, &extent);
        // Nobody waits for a segment that is open.
        let _ = self.end_write(&writing, Some(extent));
        Ok(writing)
    }

    /// Whether a part of the disk reads as zeroes because nothing of it is anywhere.
    pub fn is_zero(&self, block: u64, blocks: u32) -> bool {
        self.map.run(block, blocks) == (None, blocks)
    }

    /// The segment that is written gets no more. Returns the order of the last one that has something.
    pub fn seal(&mut self) -> u64 {
        let mut last = None;
        if let Some(open) = self.unsent.back_mut() {
            let segment = &self.segments[open.segment as usize];
            if !open.sealed && (open.pending > 0 || !open.extents.is_empty()) {
                open.sealed = true;
                self.ring.end(open.segment, u64::from(segment.blocks) * BLOCK);
            }
            last = self.unsent.iter().rev().find(|unsent| unsent.sealed);
        }
        last.map_or(0, |last| self.segments[last.segment as usize].order)
    }

    /// The segments that are to be stored, the oldest first.
    pub fn unsent(&mut self) -> impl Iterator<Item = &mut Unsent> {
        self.unsent.iter_mut()
    }

    /// How many bytes of data are not in the store.
    pub fn behind(&self) -> u64 {
        let blocks = |unsent: &Unsent| u64::from(self.segments[unsent.segment as usize].blocks);
        self.unsent.iter().map(blocks).sum::<u64>() * BLOCK
    }

    /// Since when something waits to be stored.
    pub fn behind_since(&self) -> Option<Instant> {
        self.unsent.iter().find(|unsent| !unsent.extents.is_empty()).map(|unsent| unsent.begun)
    }

    /// Whether the segment that is written has something.
    pub fn has_open(&self) -> bool {
        self.unsent.back().is_some_and(|last| !last.sealed && (last.pending > 0 || !last.extents.is_empty()))
    }

    /// A segment is in the store.
    pub fn sent(&mut self, number: u32, header: u32) -> Told {
        let mut told = Told::default();
        if let Some(unsent) = self.unsent.iter_mut().find(|unsent| unsent.segment == number) {
            unsent.sent = true;
        }
        self.segments[number as usize].header = header;
        let mut last = None;
        while self.unsent.front().is_some_and(|first| first.sent) {
            let Some(first) = self.unsent.pop_front() else { break };
            let segment = &mut self.segments[first.segment as usize];
            segment.stored = true;
            self.since_map.0 += 1;
            self.since_map.1 += u64::from(segment.blocks);
            last = Some(segment.order);
        }
        if let Some(last) = last {
            let (due, later) =
                std::mem::take(&mut self.waiting.stored).into_iter().partition(|(order, _)| *order <= last);
            self.waiting.stored = later;
            let due: Vec<(u64, Waiter)> = due;
            told.waiters.extend(due.into_iter().map(|(_, waiter)| (waiter, 0)));
            told.all(&mut self.waiting.room, 0);
        }
        told
    }

    /// Waits until all up to an order is in the store. Returns the waiter if it is.
    pub fn wait_until_stored(&mut self, order: u64, waiter: Waiter) -> Option<(Waiter, i32)> {
        if let Some(errno) = self.stopped {
            return Some((waiter, -errno));
        }
        let first = self.unsent.front().map(|first| self.segments[first.segment as usize].order);
        if first.is_none_or(|first| first > order) {
            return Some((waiter, 0));
        }
        self.waiting.stored.push((order, waiter));
        None
    }

    /// Waits until what was refused may go on.
    pub fn wait_for(&mut self, refused: Refused, waiter: Waiter) {
        match refused {
            Refused::Stopped(errno) => waiter(-errno),
            Refused::Room => self.waiting.room.push(waiter),
            Refused::Overlap => self.waiting.overlap.push(waiter),
            Refused::Unsettled => self.waiting.settled.push(waiter),
        }
    }

    /// No new write begins until [`go_on`](Self::go_on), and the segment that is written gets no more. Returns the order of the
    /// last segment that has something.
    pub fn pause(&mut self) -> u64 {
        self.paused = true;
        self.seal()
    }

    /// Writes begin again.
    pub fn go_on(&mut self) -> Told {
        let mut told = Told::default();
        self.paused = false;
        told.all(&mut self.waiting.room, 0);
        told
    }

    /// Nothing works from here on.
    pub fn stop(&mut self, errno: i32) -> Told {
        let mut told = Told::default();
        self.stopped = Some(errno);
        told.all(&mut self.waiting.room, -errno);
        told.all(&mut self.waiting.settled, -errno);
        told.all(&mut self.waiting.overlap, -errno);
        told.waiters.extend(self.waiting.stored.drain(..).map(|(_, waiter)| (waiter, -errno)));
        told.waiters
            .extend(self.fetching.drain().flat_map(|(_, waiters)| waiters).map(|waiter| (waiter, -errno)));
        told
    }

    /// The error number of all that is asked, once it is stopped.
    pub fn stopped(&self) -> Option<i32> {
        self.stopped
    }
}
