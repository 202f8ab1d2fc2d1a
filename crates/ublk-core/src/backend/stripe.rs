//! Disks side by side (RAID 0): chunks go to one after the other.

use super::identity;
use super::parts::{self, Parts, State};
use super::{
    Backend, Below, Completion, Engine, Extent, Io, PerCall, Piece, Properties, Scatter, Site, Step,
};
use crate::claim::Place;
use crate::error::{Error, Result};
use crate::number::to_usize;
use crate::queue::{CopyMode, Op};
use crate::request::count_of;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

/// See the [module](self).
pub struct Stripe {
    disks: Vec<Arc<dyn Backend>>,
    shape: Shape,
    size: u64,
}

/// The most places of a request's data that it keeps room for: with smaller chunks, each is an operation of its own.
const MOST_SEGMENTS: u16 = 512;

/// Where the bytes of a stripe are.
#[derive(Debug, Clone, Copy)]
struct Shape {
    chunk: u64,
    disks: u64,
}

impl Shape {
    /// How many of a disk's bytes lie before `offset`.
    fn before(self, disk: u64, offset: u64) -> u64 {
        let row = self.chunk * self.disks;
        let within = (offset % row).saturating_sub(disk * self.chunk).min(self.chunk);
        offset / row * self.chunk + within
    }

    /// The disk that has a byte, where it has it, and how many follow it there in the same chunk.
    fn find(self, offset: u64) -> (usize, u64, u64) {
        let (number, into) = (offset / self.chunk, offset % self.chunk);
        (to_usize(number % self.disks), number / self.disks * self.chunk + into, self.chunk - into)
    }
}

impl Shape {
    /// What each disk has of a read or write: the disk, and its piece. In the order of the data.
    fn scatter(self, piece: &Piece) -> impl Iterator<Item = (usize, Piece)> {
        let Self { chunk, disks } = self;
        let (start, end) = (piece.offset, piece.offset + piece.length);
        let gap = (disks - 1) * chunk;
        // The chunks of the first row are on one disk each; all others follow on the same disk.
        let begins = std::iter::successors(Some(start), move |at| Some((at / chunk + 1) * chunk));
        begins.take_while(move |at| *at < end).take(to_usize(disks)).map(move |at| {
            let (disk, offset, first) = self.find(at);
            let length = self.before(disk as u64, end) - offset;
            // All three are shorter than the request where its data is scattered.
            let place = |bytes| NonZeroU32::new(count_of(bytes));
            let scatter = match (place(first), place(chunk)) {
                (Some(first), Some(each)) if u64::from(first.get()) < length => {
                    Some(Scatter { first, each, gap: count_of(gap) })
                }
                _ => None,
            };
            let to = piece.at + to_usize(at - start);
            (disk, Piece { offset, length, at: to, scatter, ..*piece })
        })
    }
}

impl Stripe {
    /// The default chunk, in bytes.
    pub const USUAL_CHUNK: u64 = 64 << 10;

    /// A disk as large as `disks` together, which all have the same size, in chunks of `chunk` bytes: a multiple of their
    /// block size. The disks have whole chunks.
    pub fn new(disks: Vec<Arc<dyn Backend>>, chunk: u64) -> Result<Self> {
        parts::check("stripe", &disks)?;
        let Properties { size: each, block_size, .. } = disks[0].properties();
        if chunk == 0 || !chunk.is_multiple_of(block_size.into()) || chunk > u64::from(u32::MAX) {
            return Err(Error::invalid(format!("the stripe's chunk {chunk} is not possible"))
                .hint(format!("a multiple of the block size {block_size} below 4 GiB is")));
        }
        for (at, disk) in disks.iter().enumerate() {
            let size = disk.properties().size;
            if size != each {
                return Err(Error::invalid(format!(
                    "the stripe's disks have different sizes: {each} bytes, and {size} for number {}",
                    at + 1
                ))
                .hint("make it of disks of one size, for instance of slices"));
            }
        }
        if each == 0 || !each.is_multiple_of(chunk) {
            return Err(Error::invalid(format!(
                "the stripe's disks have {each} bytes, which are no whole chunks of {chunk}"
            ))
            .hint("use another chunk, or slices of the disks"));
        }
        let shape = Shape { chunk, disks: disks.len() as u64 };
        let size = each
            .checked_mul(shape.disks)
            .ok_or_else(|| Error::invalid("the stripe's disks are beyond 16 EiB together"))?;
        Ok(Self { disks, shape, size })
    }
}

impl Backend for Stripe {
    fn properties(&self) -> Properties {
        let row = self.shape.chunk.saturating_mul(self.shape.disks);
        let optimal_io = u32::try_from(row).unwrap_or(0);
        // The stripe splits reads and writes at its own chunks: only a disk's chunk that is no multiple of these is left.
        let chunks = self.disks.iter().map(|disk| disk.properties().chunk);
        let smaller = chunks.filter(|chunk| !u64::from(*chunk).is_multiple_of(self.shape.chunk));
        let chunk = smaller.fold(0, |common, chunk| {
            parts::common_chunk(parts::common_chunk(chunk, self.shape.chunk), common.into())
        });
        Properties { chunk, optimal_io, ..parts::together(&self.disks, self.size) }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        parts::copy_modes(&self.disks)
    }

    fn places(&self) -> Vec<Place<'_>> {
        parts::places(&self.disks)
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        let mut found = Vec::new();
        for (number, disk) in (0..).zip(&self.disks) {
            let range = self.shape.before(number, part.start)..self.shape.before(number, part.end);
            if !range.is_empty() {
                found.extend(disk.extents(range));
            }
        }
        found
    }

    fn is_in_files(&self) -> bool {
        self.disks.iter().all(|disk| disk.is_in_files())
    }

    fn identity(&self) -> Result<String> {
        identity::together(&format!("a stripe with chunks of {} bytes", self.shape.chunk), &self.disks)
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let below = self.disks.iter().map(|disk| site.below(disk.clone())).collect::<Result<_>>()?;
        let chunks = u64::from(site.max_io()).div_ceil(self.shape.chunk) + 1;
        let chunks = u16::try_from(chunks).unwrap_or(u16::MAX);
        let scatters = chunks <= MOST_SEGMENTS && self.disks.iter().all(may_scatter);
        if scatters {
            site.operations(chunks.min(u16::try_from(self.disks.len()).unwrap_or(u16::MAX)));
            site.segments(chunks);
        } else {
            site.operations(chunks);
        }
        let state = PerCall::new(site.depth());
        Ok(Box::new(StripeEngine { below, shape: self.shape, size: self.size, scatters, state }))
    }

    fn let_go(&self) {
        self.disks.iter().for_each(|disk| disk.let_go());
    }

    fn take_back(&self, _size: u64) -> Result<()> {
        self.disks.iter().try_for_each(|disk| disk.take_back(disk.properties().size))
    }

    fn check_claimed(&self) -> Result<()> {
        self.disks.iter().try_for_each(|disk| disk.check_claimed())
    }

    fn close(&self) -> Result<()> {
        parts::close(&self.disks)
    }
}

/// Whether pieces of the disk may cover many chunks of a stripe.
fn may_scatter(disk: &Arc<dyn Backend>) -> bool {
    let Properties { chunk, segments, .. } = disk.properties();
    disk.takes_scattered() && chunk == 0 && segments.is_unlimited()
}

struct StripeEngine {
    below: Vec<Below>,
    shape: Shape,
    size: u64,
    /// Whether the disks take scattered data.
    scatters: bool,
    state: PerCall<State>,
}

impl StripeEngine {
    /// Each disk once, with all of its chunks of a read or write: they are in one piece there, and scattered in the data.
    fn start_scattered(&mut self, io: &mut Io<'_>, piece: &Piece) -> Parts {
        let mut parts = Parts::new(piece.length);
        for (disk, part) in self.shape.scatter(piece) {
            parts.started(self.below[disk].start(io, 0, part));
        }
        parts
    }

    /// Each chunk of a read or write by itself: it has its place in the data.
    fn start_chunks(&mut self, io: &mut Io<'_>, piece: &Piece) -> Parts {
        let (mut parts, mut done) = (Parts::new(piece.length), 0);
        while done < piece.length {
            let (disk, to, left) = self.shape.find(piece.offset + done);
            let length = left.min(piece.length - done);
            parts.started(self.below[disk].start(io, 0, piece.part(done, length).to(to)));
            done += length;
        }
        parts
    }

    /// Each disk once: what has no data is in one piece there.
    fn start_disks(&mut self, io: &mut Io<'_>, piece: &Piece) -> Parts {
        let (mut parts, shape) = (Parts::new(piece.length), self.shape);
        for (number, below) in (0..).zip(&mut self.below) {
            let from = shape.before(number, piece.offset);
            let length = shape.before(number, piece.offset + piece.length) - from;
            if length > 0 || piece.op == Op::Flush {
                parts.started(below.start(io, 0, Piece { offset: from, length, ..*piece }));
            }
        }
        parts
    }
}

impl Engine for StripeEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if !piece.is_within(self.size) {
            return Step::Done(Err(libc::EIO));
        }
        let (disk, to, left) = self.shape.find(piece.offset);
        if piece.length <= left && piece.op != Op::Flush {
            *self.state.of(io) = State::Passed(disk);
            return self.below[disk].pass(io, piece.to(to));
        }
        let parts = if !piece.op.has_data() {
            self.start_disks(io, &piece)
        } else if self.scatters && io.scatters() {
            self.start_scattered(io, &piece)
        } else {
            self.start_chunks(io, &piece)
        };
        *self.state.of(io) = State::Split(parts);
        parts.step()
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        parts::resume(&mut self.below, &mut self.state, io, completion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_place_and_the_places_before_it_are_counted() {
        let shape = Shape { chunk: 4, disks: 3 };
        let mut seen = std::collections::HashSet::new();
        for offset in 0..48 {
            let (disk, at, left) = shape.find(offset);
            assert!(seen.insert((disk, at)));
            assert_eq!(left, 4 - at % 4);
            for other in 0..3 {
                let before = (0..offset).filter(|offset| shape.find(*offset).0 as u64 == other).count();
                assert_eq!(shape.before(other, offset), before as u64, "disk {other} before {offset}");
            }
        }
        assert!((0..3).all(|disk| (0..16).all(|at| seen.contains(&(disk, at)))));
    }
}
