//! Copies to the upper all that it lacks, while the disk is in use, so that it needs neither its base nor a layer below.
//!
//! For each part of the disk:
//!
//! 1. What the upper lacks is read from the base and the layers below it, which do not change.
//! 2. New writes to the part wait from here on, and those that began before are waited for.
//! 3. What the upper still lacks is written to it, then noted in its file, then marked in the index, as a client's write is.
//!    So what a client has written meanwhile stays. Writes go on.
//!
//! What was copied is present in the upper from then on, so a crash at any moment loses nothing, and another flatten only
//! copies the rest. At the end all is saved, and then one durable sector of the upper's header says that nothing lies below
//! it: until then the base and the layers are needed, and from then on nobody looks at them.

use super::Overlay;
use super::index::Layer;
use super::layers::Kept;
use super::queues::Queues;
use super::room;
use super::snapshot::PATIENCE;
use super::zeroes;
use crate::backend::reader::Reader;
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use crate::number::to_usize;
use crate::report::Reporter;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The most bytes of a part. Writes to it wait while it is copied.
const PART: u64 = 1 << 20;
/// The fewest, at a low rate.
const LEAST: u64 = 64 << 10;
/// The most requests to the base at a time.
const AT_ONCE: u16 = 4;
/// Parts consist of these.
const BLOCK: u64 = 4096;
/// It saves after so many bytes: a power failure costs no more, and a flush waits for no more.
const SAVE: u64 = 64 << 20;

/// Lets writes go on when it is dropped.
struct Held<'a>(&'a Queues);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

impl Overlay {
    /// See the [module](self). At most `rate` bytes a second are read. Blocks until all is copied, or it is `given_up`.
    pub fn copy_all(self: &Arc<Self>, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        let _job = self.job.begin("flattened")?;
        let top = self.layers.top();
        let kept = self.layers.of(top).kept.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "what is written to this disk is in memory: it cannot be flattened",
            )
            .hint("make the overlay with an upper in a file")
        })?;
        if !kept.upper.place().writable {
            let message = format!("the upper {} is not written", kept.upper.path().display());
            return Err(Error::new(ErrorKind::Unsupported, message).hint("the disk is read-only"));
        }
        if self.layers.of(top).is_alone() {
            return Ok(());
        }
        self.finish_seal()?;
        // What it allocates must not wait for this disk.
        let _flusher = IoFlusher::new();
        let _progressing = self.job.progressing("flattened");
        Copying { overlay: self, top, kept, given_up, base: None, data: Vec::new() }.run(rate)?;
        self.needs_nothing_below();
        self.retire_layers(); // if that takes long, other slots of the rings are used for later layers
        Ok(())
    }
}

struct Copying<'a> {
    overlay: &'a Overlay,
    top: Layer,
    kept: &'a Kept,
    given_up: &'a dyn Fn() -> bool,
    /// Reads the base.
    base: Option<Reader>,
    /// Of the present part.
    data: Vec<u8>,
}

impl Copying<'_> {
    fn run(&mut self, rate: Option<u64>) -> Result<()> {
        let size = self.overlay.size();
        let most = rate.map_or(PART, |rate| (rate / 8).clamp(LEAST, PART)) / BLOCK * BLOCK;
        let (mut at, mut unsaved) = (0, 0);
        while at < size {
            self.overlay.job.is_at(at, size);
            self.go_on()?;
            let (layer, run) = self.overlay.find(at, size - at);
            if layer == self.top {
                at += run;
                continue;
            }
            let began = Instant::now();
            let end = (at + most).min(size);
            self.has_room()?;
            let read = self.part(at..end).map_err(|error| self.failed(&error))?;
            (at, unsaved) = (end, unsaved + read);
            if unsaved >= SAVE {
                self.kept.upper.save()?;
                unsaved = 0;
            }
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(read as f64 / rate.max(1) as f64);
                self.overlay.job.pause(due.saturating_sub(began.elapsed()), self.given_up);
            }
        }
        self.go_on()?;
        self.kept.upper.stand_alone()
    }

    fn go_on(&self) -> Result<()> {
        if self.overlay.job.has_ended() {
            return Err(Error::new(ErrorKind::Closed, "the disk was stopped before it was flat")
                .hint("flatten it again to go on: what was copied stays"));
        }
        if (self.given_up)() {
            return Err(Error::new(ErrorKind::Cancelled, "the flatten was cancelled"));
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Error {
        match self.go_on() {
            Err(ended) => ended,
            Ok(()) => Error::system(
                format!("cannot copy all that lies below the upper {}", self.kept.upper.path().display()),
                error,
            )
            .kind(ErrorKind::Backend)
            .hint(if self.kept.upper.failed() {
                "a sync of the upper has failed: delete the disk, and create it again from what was saved"
            } else {
                "nothing is lost: flatten it again to go on"
            }),
        }
    }

    /// Leaves some of the file system to the writes of the disk: these would fail when it is full.
    fn has_room(&self) -> Result<()> {
        let Some(little) = room::too_little(self.kept.upper.file(), PART) else { return Ok(()) };
        let what = format!("the upper {}", self.kept.upper.path().display());
        Err(little.error(&what, "flatten it again: what was copied stays"))
    }

    /// What the upper lacks of a range.
    fn lacks(&self, range: Range<u64>) -> Vec<(Layer, Range<u64>)> {
        let (mut at, mut lacks) = (range.start, Vec::new());
        while at < range.end {
            let (layer, run) = self.overlay.find(at, range.end - at);
            if layer != self.top {
                lacks.push((layer, at..at + run));
            }
            at += run;
        }
        lacks
    }

    /// Copies a part of the disk. Returns how many bytes it has read.
    fn part(&mut self, part: Range<u64>) -> io::Result<u64> {
        let runs = self.lacks(part.clone());
        let (first, last) = match (runs.first(), runs.last()) {
            (Some(first), Some(last)) => (first.1.start, last.1.end),
            _ => return Ok(0),
        };
        let mut data = std::mem::take(&mut self.data);
        data.resize(to_usize(last - first), 0);
        let mut read = 0;
        for (layer, run) in &runs {
            let here = to_usize(run.start - first)..to_usize(run.end - first);
            let job = &self.overlay.job;
            job.reading(|| self.read(*layer, run.start, &mut data[here]))?;
            // The disk may have another server by now.
            if job.has_ended() {
                return Err(io::Error::from_raw_os_error(libc::ECANCELED));
            }
            read += run.end - run.start;
        }
        let queues = &self.overlay.queues;
        let held = Held(queues);
        queues.hold_changes(&(first..last), PATIENCE).map_err(|error| io::Error::other(error.message))?;
        let copied: Vec<_> = self.lacks(first..last).into_iter().map(|(_, run)| run).collect();
        for run in &copied {
            self.write(run.start, &data[to_usize(run.start - first)..to_usize(run.end - first)])?;
        }
        self.overlay.mark(&copied, self.top).map_err(io::Error::from_raw_os_error)?;
        drop(held);
        self.data = data;
        Ok(read)
    }

    fn read(&mut self, layer: Layer, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if layer > 0 {
            return match &self.overlay.layers.of(layer).kept {
                Some(kept) => kept.upper.read(offset, into),
                None => Err(io::Error::from_raw_os_error(libc::EIO)),
            };
        }
        let base = &self.overlay.base;
        let most = u64::from(self.overlay.max_io.load(Relaxed)).clamp(BLOCK, PART);
        if self.base.is_none() {
            let reporter = self.overlay.reporter().unwrap_or_else(|| Reporter::new(|_| {}));
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            let reader = Reader::new(base.clone(), AT_ONCE, most, reporter);
            self.base = Some(reader.map_err(|error| io::Error::other(error.message))?);
        }
        let Some(reader) = &mut self.base else { unreachable!("it was made above") };
        let (chunk, end) = (u64::from(base.properties().chunk), offset + into.len() as u64);
        let given_up = || self.overlay.job.has_ended() || (self.given_up)();
        let mut at = offset;
        while at < end {
            let mut requests = Vec::new();
            while at < end && requests.len() < usize::from(AT_ONCE) {
                let whole = if chunk == 0 { most } else { most.min(chunk - at % chunk) };
                requests.push(at..end.min(at + whole));
                at = requests.last().map_or(end, |request| request.end);
            }
            let mut done = vec![0; requests.len()];
            let mut take = |index: usize, data: &[u8]| {
                let from = to_usize(requests[index].start - offset) + done[index];
                into[from..from + data.len()].copy_from_slice(data);
                done[index] += data.len();
            };
            reader.read_unless(&given_up, &requests, &mut take).map_err(io::Error::from_raw_os_error)?;
        }
        Ok(())
    }

    /// Writes to the upper. What is zero becomes a hole.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        for (at, part, zero) in zeroes::parts(offset, data) {
            if zero { self.kept.upper.clear(at, part) } else { self.kept.upper.write(at, part) }?;
        }
        Ok(())
    }
}
