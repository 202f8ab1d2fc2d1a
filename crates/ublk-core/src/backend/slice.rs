//! A part of another disk, such as a partition of an image.

use super::{Backend, Below, Completion, Discard, Engine, Extent, Io, Piece, Properties, Site, Step, parts};
use crate::claim::Place;
use crate::error::{Error, Result};
use crate::queue::CopyMode;
use std::ops::Range;
use std::sync::Arc;

/// See the [module](self).
pub struct Slice {
    disk: Arc<dyn Backend>,
    offset: u64,
    size: u64,
}

impl Slice {
    /// `size` bytes of `disk` from `offset` on, both multiples of its block size; `None`: to its end.
    pub fn new(disk: Arc<dyn Backend>, offset: u64, size: Option<u64>) -> Result<Self> {
        let Properties { size: all, block_size, .. } = disk.properties();
        for (name, value) in [("offset", Some(offset)), ("size", size)] {
            if let Some(value) = value.filter(|value| !value.is_multiple_of(block_size.into())) {
                return Err(Error::invalid(format!(
                    "the slice's {name} {value} is not a multiple of the block size {block_size}"
                ))
                .hint("slices consist of whole blocks"));
            }
        }
        let left = all.saturating_sub(offset) / u64::from(block_size) * u64::from(block_size);
        if left == 0 {
            return Err(Error::invalid(format!(
                "the slice begins at byte {offset}, but the disk has {all} bytes"
            ))
            .hint("begin before the end of the disk"));
        }
        let size = size.unwrap_or(left);
        if size > left {
            return Err(Error::invalid(format!(
                "the slice of {size} bytes from {offset} ends beyond the disk, which has {all} bytes"
            ))
            .hint(format!("at most {left} bytes are possible there")));
        }
        if size == 0 {
            return Err(Error::invalid("the slice's size is 0").hint("a disk has at least one block"));
        }
        Ok(Self { disk, offset, size })
    }
}

impl Backend for Slice {
    fn properties(&self) -> Properties {
        let inner = self.disk.properties();
        // The first whole unit of the disk's, as the slice sees it.
        let shifted = |discard: Discard| {
            let (granularity, before) = (u64::from(discard.granularity), u64::from(discard.alignment));
            let into = (self.offset % granularity + granularity - before) % granularity;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "less than the granularity, which has 32 bits"
            )]
            let alignment = ((granularity - into) % granularity) as u32;
            Discard { alignment, ..discard }
        };
        // The disk's boundaries are none of the slice's if it begins elsewhere.
        let fits = |unit: u32| if unit > 0 && self.offset.is_multiple_of(unit.into()) { unit } else { 0 };
        Properties {
            size: self.size,
            discard: inner.discard.map(shifted),
            chunk: parts::common_chunk(inner.chunk, self.offset),
            optimal_io: fits(inner.optimal_io),
            ..inner
        }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.disk.copy_modes()
    }

    fn takes_scattered(&self) -> bool {
        self.disk.takes_scattered()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.disk.places()
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        self.disk.extents(self.offset + part.start..self.offset + part.end)
    }

    fn is_in_files(&self) -> bool {
        self.disk.is_in_files()
    }

    fn identity(&self) -> Result<String> {
        Ok(format!("{} bytes from {} of ({})", self.size, self.offset, self.disk.identity()?))
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let below = site.below(self.disk.clone())?;
        Ok(Box::new(SliceEngine { below, offset: self.offset, size: self.size }))
    }

    fn let_go(&self) {
        self.disk.let_go();
    }

    fn take_back(&self, _size: u64) -> Result<()> {
        self.disk.take_back(self.disk.properties().size)
    }

    fn check_claimed(&self) -> Result<()> {
        self.disk.check_claimed()
    }

    fn close(&self) -> Result<()> {
        self.disk.close()
    }
}

struct SliceEngine {
    below: Below,
    offset: u64,
    size: u64,
}

impl Engine for SliceEngine {
    #[inline]
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        // The driver sees to it for the whole disk, a layer above for its parts: here it is what keeps the rest apart.
        if !piece.is_within(self.size) {
            return Step::Done(Err(libc::EIO));
        }
        self.below.pass(io, piece.to(self.offset + piece.offset))
    }

    #[inline]
    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        self.below.pass_on(io, completion)
    }
}
