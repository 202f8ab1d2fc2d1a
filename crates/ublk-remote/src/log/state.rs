//! What a volume knows while it is served: where everything is, what is still to be stored, and who waits for that. Knows no
//! file and no store.

use super::cache::{CHUNK, Cache, Key};
use super::format::{BLOCK, Extent, Kind, LogId, MOST_BLOCKS, MOST_EXTENTS};
use super::map::{Map, Place};
use super::notes::Noted;
use super::ring::Ring;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::Instant;

/// Told once, with 0 or a negative error number.
pub type Waiter = Box<dyn FnOnce(i32) + Send>;

/// A segment that the map names, or that is to be stored.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// Its place in the log.
    pub id: LogId,
    /// Blocks of its header, once it is stored.
    pub header: u32,
    /// Blocks of its data.
    pub blocks: u32,
    /// How many blocks of the disk are in it.
    pub live: u32,
    /// Of two segments, the later one has the higher number.
    pub order: u64,
    /// Where its data begins in the local file.
    pub local: Option<u64>,
    /// How many requests read it there.
    pub pins: u32,
    /// It is in the store, and so are all before it.
    pub stored: bool,
    used: bool,
}

/// A segment that is not stored.
#[derive(Debug)]
pub struct Unsent {
    /// Its number in the table.
    pub segment: u32,
    /// In the order in which they count.
    pub extents: Vec<Extent>,
    /// Writes that are under way.
    pending: u32,
    /// When it was begun.
    begun: Instant,
    /// It gets no more writes.
    sealed: bool,
    /// Somebody stores it.
    pub sending: bool,
    /// It is in the store; others before it may not be.
    sent: bool,
}

impl Unsent {
    /// One that is open, and has nothing.
    fn new(segment: u32) -> Self {
        let begun = Instant::now();
        Self { segment, extents: Vec::new(), pending: 0, begun, sealed: false, sending: false, sent: false }
    }

    /// Whether it is whole, and nobody stores it yet.
    pub fn is_ready(&self) -> bool {
        self.sealed && self.pending == 0 && !self.sending && !self.sent
    }
}

/// What a write does with the blocks that it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It replaces all of each.
    Whole,
    /// It keeps a part of some, which has been read before: nobody else changes them meanwhile.
    Part,
    /// It puts the same somewhere else.
    Move,
}

/// Why a write does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The disk has stopped, with this error number.
    Stopped(i32),
    /// There is no room in the ring, or the map is being copied.
    Room,
    /// Others change the same blocks.
    Overlap,
    /// Writes in earlier segments are under way.
    Unsettled,
}

/// A write that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writing {
    /// The first block of the disk.
    pub block: u64,
    /// What it does with the blocks.
    pub way: Way,
    /// The segment's number in the table.
    pub segment: u32,
    /// Its place in the log.
    pub id: LogId,
    /// Where the segment's data begins in the local file.
    pub start: u64,
    /// The first block of its data.
    pub place: u32,
    /// How many.
    pub blocks: u32,
}

impl Writing {
    /// Where its data belongs in the local file.
    pub fn offset(&self) -> u64 {
        self.start + u64::from(self.place) * BLOCK
    }
}

/// Where a part of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nowhere: it reads as zeroes.
    Zero,
    /// In the local file from this byte on; it stays until it is unpinned.
    At(u64, Pin),
    /// In the store only.
    Missing(Key),
}

/// What keeps data in the local file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// A segment.
    Segment(u32),
    /// A slot of the cache.
    Slot(u32),
}

/// What the local file is used for, in bytes.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Segments that were written.
    pub ring: Range<u64>,
    /// Chunks that were read.
    pub chunks: Range<u64>,
}

impl Layout {
    /// Bytes at the beginning of the file that are never written: they read as zeroes.
    pub const ZEROES: u64 = 16 << 20;

    /// For a file of so many bytes; the first quarter of it, but at most 1 GiB, is for what is written.
    pub fn new(bytes: u64) -> Self {
        let ring = (bytes / 4).clamp(4 * super::ring::SPAN, 1 << 30);
        let start = Self::ZEROES;
        let chunks = bytes.saturating_sub(ring) / Self::CHUNK * Self::CHUNK;
        Self { ring: start..start + ring, chunks: start + ring..start + ring + chunks }
    }

    /// Bytes of a chunk.
    pub const CHUNK: u64 = CHUNK as u64 * BLOCK;

    /// How many chunks it has room for.
    pub fn slots(&self) -> u32 {
        u32::try_from((self.chunks.end - self.chunks.start) / Self::CHUNK).unwrap_or(u32::MAX)
    }

    /// Where a slot is.
    pub fn slot(&self, slot: u32) -> u64 {
        self.chunks.start + u64::from(slot) * Self::CHUNK
    }
}

/// Who waits for something that is not a request's own.
#[derive(Default)]
struct Waiting {
    /// For all up to this order to be stored.
    stored: Vec<(u64, Waiter)>,
    /// For room in the ring.
    room: Vec<Waiter>,
    /// For other writes to the same blocks.
    overlap: Vec<Waiter>,
    /// For the writes of segments that get no more.
    settled: Vec<Waiter>,
}

/// Whom to tell, when the state is not locked any more.
#[must_use]
#[derive(Default)]
pub struct Told {
    waiters: Vec<(Waiter, i32)>,
    /// A segment is whole now, and is to be stored.
    pub ready: bool,
}

impl Told {
    /// Tells them.
    pub fn tell(self) {
        self.waiters.into_iter().for_each(|(waiter, result)| waiter(result));
    }

    fn all(&mut self, waiters: &mut Vec<Waiter>, result: i32) {
        self.waiters.extend(waiters.drain(..).map(|waiter| (waiter, result)));
    }
}

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
}

impl State {
    /// An empty disk of so many blocks.
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

    /// Keeps a segment in the local file, if it is there, until it is unpinned. Returns where its data begins.
    pub fn hold(&mut self, number: u32) -> Option<u64> {
        let segment = &mut self.segments[number as usize];
        segment.pins += u32::from(segment.local.is_some());
        segment.local
    }

    /// All segments that are stored.
    pub fn stored(&self) -> impl Iterator<Item = (u32, &Segment)> {
        (0..).zip(&self.segments).filter(|(_, segment)| segment.used && segment.stored)
    }

    /// A new segment, the latest.
    pub fn add(&mut self, id: LogId, header: u32, blocks: u32, stored: bool) -> u32 {
        self.orders += 1;
        let segment =
            Segment { id, header, blocks, order: self.orders, stored, used: true, ..Segment::default() };
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
        let order = self.segments[number as usize].order;
        let segments = &self.segments;
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
            None => before.is_none_or(|before| segments[before.segment as usize].order <= order),
        };
        let place = (extent.kind != Kind::Zero).then_some(Place { segment: number, block: extent.place });
        let mut replaced = Vec::new();
        let put = self.map.set(extent.block, extent.blocks, place, may, |place| replaced.push(place.segment));
        for segment in replaced {
            self.segments[segment as usize].live -= 1;
        }
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

    /// Where a block is, and how many from there on, at most `most`, are together. What is in the local file is pinned.
    pub fn find(&mut self, block: u64, most: u32) -> (Found, u32) {
        let (place, run) = self.map.run(block, most);
        let Some(place) = place else { return (Found::Zero, run) };
        let segment = &mut self.segments[place.segment as usize];
        if let Some(start) = segment.local {
            segment.pins += 1;
            return (Found::At(start + u64::from(place.block) * BLOCK, Pin::Segment(place.segment)), run);
        }
        let key = Key { segment: place.segment, chunk: place.block / CHUNK };
        let within = place.block % CHUNK;
        let run = run.min(CHUNK - within);
        match self.cache.find(key) {
            None => (Found::Missing(key), run),
            Some(slot) => {
                self.cache.pin(slot);
                let at = self.layout.slot(slot) + u64::from(within) * BLOCK;
                (Found::At(at, Pin::Slot(slot)), run)
            }
        }
    }

    /// The chunks of some blocks that are only in the store.
    pub fn missing(&mut self, blocks: Range<u64>) -> Vec<Key> {
        let (mut block, mut keys) = (blocks.start, Vec::new());
        while block < blocks.end {
            let most = u32::try_from(blocks.end - block).unwrap_or(u32::MAX);
            let (place, run) = self.map.run(block, most);
            block += u64::from(run);
            let Some(place) = place.filter(|place| self.segments[place.segment as usize].local.is_none())
            else {
                continue;
            };
            let chunks = place.block / CHUNK..=(place.block + run - 1) / CHUNK;
            let keys_of = chunks.map(|chunk| Key { segment: place.segment, chunk });
            keys.extend(
                keys_of.filter(|key| !self.fetching.contains_key(key) && self.cache.find(*key).is_none()),
            );
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// What was found is not needed any more.
    pub fn unpin(&mut self, pin: Pin) -> Told {
        let mut told = Told::default();
        match pin {
            Pin::Slot(slot) => self.cache.unpin(slot),
            Pin::Segment(number) => {
                let segment = &mut self.segments[number as usize];
                segment.pins -= 1;
                if segment.pins == 0 && segment.stored && !self.waiting.room.is_empty() {
                    told.all(&mut self.waiting.room, 0);
                }
            }
        }
        told
    }

    /// Takes up a segment that an earlier server wrote to the local file and did not store: it is stored now, as the next one.
    ///
    /// What was only moved there is left out: it is still in the segment that it came from, which no stored map has done without.
    /// So it has no more parts than it had then.
    pub fn restore(&mut self, start: u64, noted: &[Extent]) -> bool {
        let mut extents = Vec::new();
        for extent in noted.iter().filter(|extent| !matches!(extent.kind, Kind::Moved { .. })) {
            add_extent(&mut extents, *extent);
        }
        if extents.is_empty() {
            return true;
        }
        let end = |extent: &Extent| {
            if extent.kind == Kind::Zero { Some(0) } else { extent.place.checked_add(extent.blocks) }
        };
        let blocks = extents.iter().map(end).max().flatten().unwrap_or(u32::MAX);
        if extents.len() > MOST_EXTENTS || blocks > MOST_BLOCKS {
            return false;
        }
        let id = self.next;
        let number = self.add(id, 0, blocks, false);
        if !self.ring.restore(number, start..start + u64::from(blocks) * BLOCK) {
            self.remove(number);
            return false;
        }
        self.next = id.next();
        self.segments[number as usize].local = Some(start);
        extents.iter().for_each(|extent| self.apply(number, extent));
        self.unsent.push_back(Unsent { extents, sealed: true, ..Unsent::new(number) });
        true
    }

    /// What is not in the store, as notes.
    pub fn unstored(&self) -> Vec<Noted> {
        let noted = |unsent: &Unsent| {
            let segment = &self.segments[unsent.segment as usize];
            let (sequence, start) = (segment.id.sequence, segment.local.unwrap_or_default());
            Noted { sequence, start, extents: unsent.extents.clone() }
        };
        self.unsent.iter().filter(|unsent| !unsent.extents.is_empty()).map(noted).collect()
    }
}

/// Adds a part to a segment's, as one with the last if it goes on where that ends.
fn add_extent(extents: &mut Vec<Extent>, extent: Extent) {
    if let Some(last) = extents.last_mut() {
        let follows = last.block + u64::from(last.blocks) == extent.block;
        let together = match (last.kind, extent.kind) {
            (Kind::Data, Kind::Data) => last.place + last.blocks == extent.place,
            (Kind::Zero, Kind::Zero) => true,
            _ => false,
        };
        if follows && together && last.blocks.checked_add(extent.blocks).is_some() {
            last.blocks += extent.blocks;
            return;
        }
    }
    extents.push(extent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_up_has_no_more_parts_than_it_had_and_no_moves() {
        let zero = |block| Extent { block, blocks: 1, place: 0, kind: Kind::Zero };
        let data = |block, place| Extent { block, blocks: 1, place, kind: Kind::Data };
        let moved = Kind::Moved { from: LogId::default(), place: 0 };
        let mut noted: Vec<_> = (0..2 * MOST_EXTENTS as u64).map(zero).collect();
        noted.extend([data(1, 0), data(2, 1), Extent { kind: moved, ..data(3, 2) }]);
        let layout = Layout::new(64 << 20);
        let start = layout.ring.start;
        let mut state = State::new(1 << 20, layout);
        assert!(state.restore(start, &noted));
        let parts = state.unstored().remove(0).extents;
        assert_eq!(parts[1], Extent { blocks: 2, ..data(1, 0) });
        assert_eq!((parts.len(), parts[0].blocks as usize), (2, 2 * MOST_EXTENTS));
        assert_eq!((state.map.get(2).is_some(), state.map.get(3)), (true, None));
        // Only moves: it is not needed.
        assert!(state.restore(start, &noted[noted.len() - 1..]) && state.unstored().len() == 1);
        // No notes of ours.
        let beyond = data(7, MOST_BLOCKS);
        assert!(
            !state.restore(start, &[beyond])
                && !state.restore(start, &[Extent { place: u32::MAX, ..beyond }])
        );
        let apart: Vec<_> = (0..=MOST_EXTENTS as u64).map(|number| zero(number * 2)).collect();
        assert!(!state.restore(start, &apart) && state.unstored().len() == 1);
    }
}
