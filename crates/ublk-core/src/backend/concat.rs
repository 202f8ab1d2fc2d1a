//! Disks one after another.

use super::identity;
use super::parts::{self, Parts, State};
use super::{Backend, Below, Completion, Engine, Extent, Io, PerCall, Piece, Properties, Site, Step};
use crate::claim::Place;
use crate::error::{Error, Result};
use crate::queue::{CopyMode, Op};
use std::ops::Range;
use std::sync::Arc;

/// See the [module](self).
pub struct Concat {
    disks: Vec<Arc<dyn Backend>>,
    /// Where each disk ends, in bytes.
    ends: Vec<u64>,
}

impl Concat {
    /// A disk as large as `disks` together. Each has to be whole blocks, of one size.
    pub fn new(disks: Vec<Arc<dyn Backend>>) -> Result<Self> {
        parts::check("concat", &disks)?;
        let mut ends = Vec::with_capacity(disks.len());
        let mut end = 0_u64;
        for (at, disk) in disks.iter().enumerate() {
            let Properties { size, block_size, .. } = disk.properties();
            if size == 0 || !size.is_multiple_of(block_size.into()) {
                return Err(Error::invalid(format!(
                    "disk number {} of the concat has {size} bytes, which are no whole blocks of {block_size}",
                    at + 1
                )));
            }
            end = end
                .checked_add(size)
                .ok_or_else(|| Error::invalid("the concat's disks are beyond 16 EiB together"))?;
            ends.push(end);
        }
        Ok(Self { disks, ends })
    }
}

impl Backend for Concat {
    fn properties(&self) -> Properties {
        // A request that crosses no multiple of the chunk in the concat crosses none in a disk either.
        let mut chunk = 0;
        for (number, disk) in self.disks.iter().enumerate() {
            let inner = disk.properties().chunk;
            if inner > 0 {
                let start = if number == 0 { 0 } else { self.ends[number - 1] };
                chunk = parts::common_chunk(parts::common_chunk(inner, start), chunk.into());
            }
        }
        let together = parts::together(&self.disks, self.ends.last().copied().unwrap_or(0));
        Properties { chunk, ..together }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        parts::copy_modes(&self.disks)
    }

    fn takes_scattered(&self) -> bool {
        self.disks.iter().all(|disk| disk.takes_scattered())
    }

    fn places(&self) -> Vec<Place<'_>> {
        parts::places(&self.disks)
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        let (mut found, mut start) = (Vec::new(), 0);
        for (disk, end) in self.disks.iter().zip(&self.ends) {
            let (from, to) = (part.start.max(start), part.end.min(*end));
            if from < to {
                found.extend(disk.extents(from - start..to - start));
            }
            start = *end;
        }
        found
    }

    fn is_in_files(&self) -> bool {
        self.disks.iter().all(|disk| disk.is_in_files())
    }

    fn identity(&self) -> Result<String> {
        identity::together("a concat", &self.disks)
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let below = self.disks.iter().map(|disk| site.below(disk.clone())).collect::<Result<_>>()?;
        let state = PerCall::new(site.depth());
        Ok(Box::new(ConcatEngine { below, ends: self.ends.clone(), state }))
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

struct ConcatEngine {
    below: Vec<Below>,
    ends: Vec<u64>,
    state: PerCall<State>,
}

impl ConcatEngine {
    fn start_of(&self, disk: usize) -> u64 {
        if disk == 0 { 0 } else { self.ends[disk - 1] }
    }
}

impl Engine for ConcatEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let Some(end) = piece.offset.checked_add(piece.length) else {
            return Step::Done(Err(libc::EIO));
        };
        if piece.op == Op::Flush {
            let mut parts = Parts::new(0);
            for below in &mut self.below {
                parts.started(below.start(io, 0, piece));
            }
            *self.state.of(io) = State::Split(parts);
            return parts.step();
        }
        let first = self.ends.partition_point(|end| *end <= piece.offset);
        if first == self.below.len() || end > self.ends[self.ends.len() - 1] {
            return Step::Done(Err(libc::EIO));
        }
        if end <= self.ends[first] {
            *self.state.of(io) = State::Passed(first);
            let to = piece.offset - self.start_of(first);
            return self.below[first].pass(io, piece.to(to));
        }
        let (mut parts, mut done) = (Parts::new(piece.length), 0);
        for disk in first.. {
            let length = (self.ends[disk].min(end)) - (piece.offset + done);
            let to = piece.offset + done - self.start_of(disk);
            parts.started(self.below[disk].start(io, 0, piece.part(done, length).to(to)));
            done += length;
            if done == piece.length {
                break;
            }
        }
        *self.state.of(io) = State::Split(parts);
        parts.step()
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        parts::resume(&mut self.below, &mut self.state, io, completion)
    }
}
