//! Looks up and changes where the clusters of a disk are, by imago: on one thread, whose calls block. Nothing else uses
//! imago, so each of its futures is ready when it is polled.

use super::chain::Layer;
use super::header::Header;
use super::order::Order;
use super::scratch::{self, Scratch};
use super::storage::Image;
use super::table::{Entry, Grace, Table};
use imago::format::drivers::FormatDriverInstance;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, Mapping, ShallowMapping};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};

/// What the mapper and the queues share.
pub struct Shared {
    pub table: Table,
    pub grace: Grace,
    /// Whether mappings were changed in memory that are not in the file yet.
    pub unsaved: AtomicBool,
    /// Whether there are such, or some in the file that are not durable yet.
    pub unsynced: AtomicBool,
}

impl Shared {
    pub fn new(table: Table) -> Self {
        let (unsaved, unsynced) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { table, grace: Grace::default(), unsaved, unsynced }
    }

    /// Mappings are about to be changed.
    fn changes(&self) {
        self.unsynced.store(true, SeqCst);
        self.unsaved.store(true, SeqCst);
    }
}

/// A range whose data is no longer needed.
#[derive(Debug, Clone)]
pub struct Clear {
    pub range: Range<u64>,
    /// It must read as zeroes.
    pub zeroes: bool,
    /// Its space is kept.
    pub keep: bool,
}

/// See the [module](self).
pub struct Mapper {
    format: FormatAccess<Image>,
    image: Image,
    version: u32,
    has_backing: bool,
    scratch: Scratch,
    /// Mappings are in the file before a write is answered: they have to survive this process.
    through: bool,
    /// Clusters that were given places, which no queue may write to yet: see [`after_allocations`](Self::after_allocations).
    allocated: Vec<(u64, Entry)>,
}

/// Runs a future of imago's, which waits for nothing but itself.
pub fn run<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    // Sets of futures yield now and then.
    for _ in 0..1_000_000 {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
    }
    Err(io::Error::other("imago waits for something that nobody does"))
}

/// The header as it is now: the server before this one may have moved tables since the file was opened.
fn read_again(layer: &Layer, before: &Header) -> io::Result<Header> {
    let header = Header::read(&layer.file, &layer.path).map_err(|error| io::Error::other(error.message))?;
    let same = header.size == before.size && header.cluster_bits == before.cluster_bits;
    if same { Ok(header) } else { Err(io::Error::other("it is another image than before")) }
}

/// How many clusters are looked up at a time, if that costs no further read.
const GROUP: u64 = 256;

impl Mapper {
    /// Opens the images of a chain. `through`: mappings are in the file before a write is answered.
    pub fn open(layers: &[Layer], writable: bool, through: bool, scratch: Scratch) -> io::Result<Self> {
        let mut below = None;
        let mut image = None;
        for (index, layer) in layers.iter().enumerate().rev() {
            let written = index == 0 && writable;
            let order = match &layer.header {
                Some(header) if written => {
                    let header = read_again(layer, header)?;
                    Some(Order::new(layer.file.clone(), &header, through)?)
                }
                _ => None,
            };
            let storage = Image::new(layer.file.clone(), index, layer.length, order);
            image = Some(storage.clone());
            below = Some(if layer.header.is_some() {
                let mut qcow2 = run(Qcow2::<Image>::open_image(storage, written))?;
                qcow2.set_data_file(None);
                qcow2.set_backing(below);
                FormatAccess::new(qcow2)
            } else {
                FormatAccess::new(run(Raw::open_image(storage, false))?)
            });
        }
        let (Some(format), Some(image)) = (below, image) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if let Some(mut order) = image.order() {
            order.opened();
        }
        let version = layers[0].header.as_ref().map_or(0, |header| header.version);
        let (has_backing, allocated) = (layers.len() > 1, Vec::new());
        Ok(Self { format, image, version, has_backing, scratch, through, allocated })
    }

    /// The image that is written to.
    pub fn image(&self) -> &Image {
        &self.image
    }

    fn size(&self) -> u64 {
        self.format.size()
    }

    /// Says in the table where the clusters of a range are.
    pub fn look_up(&mut self, range: Range<u64>, shared: &Shared) -> io::Result<()> {
        let unit = shared.table.unit();
        let size = self.size();
        let mut at = range.start / unit * unit;
        let group = (at / (GROUP * unit) + 1).saturating_mul(GROUP * unit);
        let end = range.end.max(group).min(size);
        while at < end {
            let needed = at < range.end;
            if shared.table.get(at).is_known() {
                at += unit;
                continue;
            }
            let (mapping, length) = run(self.format.get_mapping(at, end - at))?;
            let length =
                if at + length >= size { length.next_multiple_of(unit) } else { length / unit * unit };
            let place = match mapping {
                Mapping::Zero { .. } => Some(None),
                Mapping::Raw { storage, offset, writable, .. } => {
                    let saved = !(self.through && shared.unsaved.load(SeqCst));
                    let writable = writable && saved && storage.index() == 0;
                    Some(Some((storage.index(), offset, writable)))
                }
                Mapping::Special { .. } => None,
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            match place {
                Some(place) if length > 0 => {
                    for done in (0..length).step_by(usize::try_from(unit).map_err(io::Error::other)?) {
                        let entry = match place {
                            None => Entry::ZEROES,
                            Some((file, offset, writable)) => self.entry(file, offset + done, writable)?,
                        };
                        self.set(at + done, entry, shared)?;
                    }
                    at += length;
                }
                _ if !needed => break,
                _ => {
                    self.copy(at, unit.min(size - at), shared)?;
                    at += unit;
                }
            }
        }
        Ok(())
    }

    /// Copies a cluster that is not at one place in a file.
    fn copy(&mut self, at: u64, length: u64, shared: &Shared) -> io::Result<()> {
        let mut data = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        run(self.format.read(data.as_mut_slice(), at))?;
        self.make_room(at, shared)?;
        self.scratch.put(at, &data, &shared.table, &shared.grace)
    }

    fn entry(&self, file: usize, offset: u64, writable: bool) -> io::Result<Entry> {
        let damaged = || io::Error::other(format!("the image is damaged: it has data at byte {offset:#x}"));
        let is_table = file == 0 && self.image.order().is_some_and(|order| !order.may_be_data(offset));
        if is_table || offset >= 1 << 56 {
            return Err(damaged());
        }
        Entry::at(file, offset, writable).ok_or_else(damaged)
    }

    fn set(&self, at: u64, entry: Entry, shared: &Shared) -> io::Result<()> {
        self.make_room(at, shared)?;
        shared.table.set(at, entry);
        Ok(())
    }

    /// Forgets everything if the table is full.
    fn make_room(&self, at: u64, shared: &Shared) -> io::Result<()> {
        if shared.table.set(at, Entry::UNKNOWN) {
            return Ok(());
        }
        shared.table.clear_all();
        if !shared.grace.wait() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        shared.table.recycle();
        Ok(())
    }

    /// Gives all clusters of a range places of their own in the image, which have what the clusters have now. Queues write
    /// there after [`after_allocations`](Self::after_allocations).
    pub fn allocate(&mut self, range: Range<u64>, shared: &Shared) -> io::Result<()> {
        let unit = shared.table.unit();
        let mut at = range.start;
        while at < range.end {
            if shared.table.get(at).is_writable() {
                at = at / unit * unit + unit;
                continue;
            }
            shared.changes();
            let (storage, offset, length) = run(self.format.ensure_data_mapping(at, range.end - at, false))?;
            if length == 0 || storage.index() != 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (first, last) = (at / unit * unit, at + length);
            let mut place = offset.checked_sub(at - first).ok_or(io::ErrorKind::InvalidData)?;
            let mut cluster = first;
            while cluster < last {
                self.allocated.push((cluster, self.entry(0, place, true)?));
                (cluster, place) = (cluster + unit, place + unit);
            }
            at = last;
        }
        Ok(())
    }

    /// What has to follow allocations before they are answered. Only now are the places in the table: any queue that finds
    /// one there writes to it and answers, without asking whether the mapping is in the file.
    pub fn after_allocations(&mut self, shared: &Shared) -> io::Result<()> {
        let allocated = std::mem::take(&mut self.allocated);
        if self.through && !allocated.is_empty() {
            self.save(shared)?;
        }
        allocated.into_iter().try_for_each(|(at, entry)| self.set(at, entry, shared))
    }

    /// Writes all changes of mappings to the file. They are durable after the next sync.
    fn save(&mut self, shared: &Shared) -> io::Result<()> {
        shared.unsaved.store(false, SeqCst);
        run(self.format.flush()).inspect_err(|_| shared.unsaved.store(true, SeqCst))
    }

    /// Makes everything durable.
    pub fn flush(&mut self, shared: &Shared) -> io::Result<()> {
        self.save(shared)?;
        shared.unsynced.store(false, SeqCst);
        let synced = self.image.order().map_or(Ok(()), |mut order| order.sync());
        synced.inspect_err(|_| shared.unsynced.store(true, SeqCst))
    }

    /// Frees or zeroes ranges. Returns the outcome of each.
    pub fn clear(&mut self, all: &[Clear], shared: &Shared) -> io::Result<Vec<io::Result<()>>> {
        // No operation may reach a place that is freed: neither one that has looked it up, nor one that does from now on.
        for clear in all {
            shared.table.clear(clear.range.start, clear.range.end);
        }
        if !shared.grace.wait() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut freed = Vec::new();
        let outcomes = all.iter().map(|clear| self.clear_one(clear, &mut freed, shared)).collect();
        // Freed places are used again only when nothing points to them any more, whatever happens.
        self.flush(shared)?;
        if let Some(mut order) = self.image.order() {
            for Range { start, end } in freed {
                let unit = shared.table.unit();
                for at in (start..end).step_by(usize::try_from(unit).map_err(io::Error::other)?) {
                    if order.is_free(at) {
                        let _ = order.punch(at, unit); // a file system without holes keeps the space
                    }
                }
            }
        }
        Ok(outcomes)
    }

    fn clear_one(&mut self, clear: &Clear, freed: &mut Vec<Range<u64>>, shared: &Shared) -> io::Result<()> {
        let (unit, size) = (shared.table.unit(), self.size());
        let (start, end) = (clear.range.start, clear.range.end);
        let first = start.next_multiple_of(unit);
        let last = if end == size { end } else { end / unit * unit };
        let whole_clusters = self.version >= 3 || !self.has_backing;
        if !whole_clusters || last <= first {
            return if clear.zeroes { self.write_zeroes(clear.range.clone(), shared) } else { Ok(()) };
        }
        self.clear_clusters(first..last, clear, freed)?;
        if clear.zeroes {
            self.write_zeroes(start..first, shared)?;
            self.write_zeroes(last..end, shared)?;
        }
        Ok(())
    }

    /// Frees or zeroes whole clusters; the last one of the disk may be shorter.
    fn clear_clusters(
        &mut self,
        range: Range<u64>,
        clear: &Clear,
        freed: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        let inner = self.format.inner();
        let mut at = range.start;
        while at < range.end {
            let (mapping, length) = run(inner.get_mapping(at, range.end - at))?;
            let length = length.min(range.end - at);
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let is_zero = match mapping {
                ShallowMapping::Zero { .. } => true,
                ShallowMapping::Raw { offset, writable, .. } => {
                    if writable && !(clear.keep && clear.zeroes) {
                        freed.push(offset..offset + length);
                    }
                    false
                }
                // What is below may show again where the data is not needed, but nothing newer is lost.
                ShallowMapping::Indirect { .. } => !clear.zeroes,
                _ => false,
            };
            if !is_zero {
                self.clear_run(inner, at..at + length, clear)?;
            }
            at += length;
        }
        Ok(())
    }

    fn clear_run(
        &self,
        inner: &dyn FormatDriverInstance<Storage = Image>,
        range: Range<u64>,
        clear: &Clear,
    ) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let rest = range.end - at;
            let (from, length) = if clear.keep && clear.zeroes && self.version >= 3 {
                run(inner.ensure_zero_mapping(at, rest))?
            } else if self.has_backing {
                // SAFETY: no mapping that was looked up before is used any more: the table forgot them, and their
                // operations are back.
                run(unsafe { inner.discard_to_zero_unsafe(at, rest) })?
            } else {
                // SAFETY: as above.
                run(unsafe { inner.discard_to_backing_unsafe(at, rest) })?
            };
            if length == 0 || from != at {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += length;
        }
        Ok(())
    }

    /// Writes zeroes where the disk has others.
    fn write_zeroes(&mut self, range: Range<u64>, shared: &Shared) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (mapping, length) = run(self.format.get_mapping(at, range.end - at))?;
            let length = length.min(range.end - at);
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !matches!(mapping, Mapping::Zero { .. }) {
                let (storage, offset, mapped) = run(self.format.ensure_data_mapping(at, length, false))?;
                self.entry(storage.index(), offset / 512 * 512, true)?;
                storage.zero_at(offset, mapped)?;
                shared.changes();
                at += mapped;
            } else {
                at += length;
            }
        }
        Ok(())
    }
}

const _: () = assert!(scratch::FILE > super::chain::LONGEST);
