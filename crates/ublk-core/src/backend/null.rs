//! A disk that forgets: writes vanish, reads are zeroes.

use super::{Backend, Discard, Engine, Properties, Site, Step};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::{CopyMode, Io, Op};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// See the [module](self).
pub struct Null {
    size: AtomicU64,
}

impl Null {
    /// How it can be given the data of requests, the best first.
    pub const COPY_MODES: &'static [CopyMode] = &[CopyMode::Copy, CopyMode::User];

    /// A null disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size: AtomicU64::new(size) }
    }
}

impl Backend for Null {
    fn properties(&self) -> Properties {
        let discard = Some(Discard { granularity: 4096, max: 1 << 30, max_write_zeroes: 1 << 30 });
        Properties { size: self.size.load(Relaxed), block_size: 512, write_cache: false, discard }
    }

    fn copy_modes(&self) -> &'static [CopyMode] {
        Self::COPY_MODES
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(&self, site: &Site) -> Result<Box<dyn Engine + '_>> {
        Ok(Box::new(NullEngine { dirty: vec![0; usize::from(site.depth)].into() }))
    }

    fn resize(&self, _from: u64, to: u64) -> Result<()> {
        self.size.store(to, Relaxed);
        Ok(())
    }
}

struct NullEngine {
    /// How far each tag's buffer holds the data of earlier writes. Only that has to be cleared for a read:
    /// a disk that is only read never touches its buffers.
    dirty: Box<[usize]>,
}

impl Engine for NullEngine {
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step> {
        let what = io.request.what;
        let dirty = &mut self.dirty[usize::from(io.request.ticket.tag)];
        match what.op {
            // The driver copies nothing then, not even zeroes.
            Op::Read if what.shared.is_some() => io.data()?.fill(0),
            Op::Write if what.shared.is_some() => {}
            Op::Read if !io.reuses_buffers() => io.move_buffer()?,
            Op::Write => *dirty = (*dirty).max(what.length as usize),
            Op::Read if *dirty > 0 => {
                let data = io.data()?;
                if *dirty <= data.len() {
                    data[..*dirty].fill(0);
                    *dirty = 0;
                } else {
                    data.fill(0);
                }
            }
            _ => {}
        }
        Ok(Step::Done(Ok(what.length as u32)))
    }
}
