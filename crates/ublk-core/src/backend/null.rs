//! A disk that forgets: writes vanish, reads are zeroes.

use super::{Backend, Discard, Engine, Io, Piece, Properties, Site, Step};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::{CopyMode, Op};
use std::sync::Arc;
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
        let discard =
            Some(Discard { granularity: 4096, alignment: 0, max: 1 << 30, max_write_zeroes: 1 << 30 });
        Properties { discard, ..Properties::new(self.size.load(Relaxed)) }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        Self::COPY_MODES.to_vec()
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(NullEngine { dirty: vec![0; usize::from(site.depth())].into(), shared: site.shared() }))
    }

    fn resize(&self, _from: u64, to: u64) -> Result<()> {
        self.size.store(to, Relaxed);
        Ok(())
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.size.store(size, Relaxed);
        Ok(())
    }
}

struct NullEngine {
    /// How far each tag's buffer holds the data of earlier writes. Only that has to be cleared for a read:
    /// a disk that is only read never touches its buffers.
    dirty: Box<[usize]>,
    /// Others put data into the buffers, too.
    shared: bool,
}

impl NullEngine {
    fn read(&mut self, io: &mut Io<'_>, piece: &Piece) -> std::result::Result<(), i32> {
        // The driver copies nothing of what is in shared memory, not even zeroes.
        if self.shared || io.request.what.shared.is_some() {
            return io.zero(piece);
        }
        if !io.reuses_buffers() {
            return io.move_buffer(piece);
        }
        let dirty = &mut self.dirty[usize::from(io.request.ticket.tag)];
        let length = (*dirty).min(piece.data_length());
        if length > 0 {
            io.zero(&piece.part(0, length as u64))?;
            *dirty = if length == *dirty { 0 } else { *dirty };
        }
        Ok(())
    }
}

impl Engine for NullEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        match piece.op {
            Op::Read => {
                if let Err(errno) = self.read(io, &piece) {
                    return Step::Done(Err(errno));
                }
            }
            Op::Write if io.request.what.shared.is_none() => {
                let dirty = &mut self.dirty[usize::from(io.request.ticket.tag)];
                *dirty = (*dirty).max(piece.data_length());
            }
            _ => {}
        }
        Step::Done(Ok(piece.count()))
    }
}
