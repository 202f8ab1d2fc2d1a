//! Copies to a side of a mirrored disk what it lacks, while the disk is in use.
//!
//! For each part that the side lacks:
//!
//! 1. From here on it gets what is written to the part, too. What is not copied yet is overwritten by step 3.
//! 2. Piece by piece: new changes of the piece wait, and all that began before are waited for ([`Queues::hold_changes`]).
//! 3. The piece is read from a side that has it, and written. Changes go on.
//! 4. It counts as there.
//!
//! So no change of a piece is in flight while it is copied, and none that comes later misses the side: it ends when no part is
//! missing, whatever is written meanwhile.
//!
//! [`Queues::hold_changes`]: crate::backend::overlay::queues::Queues::hold_changes

use super::sides::Sides;
use crate::backend::overlay::queues::Queues;
use crate::backend::reader::Reader;
use crate::backend::{Backend, Properties};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use crate::queue::Op;
use crate::report::Reporter;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most bytes for which changes wait at a time.
const PIECE: u64 = 1 << 20;
/// The fewest, at a low rate.
const LEAST: u64 = 64 << 10;
/// Pieces consist of these.
const BLOCK: u64 = 4096;
/// The most requests at a time, and the most bytes of each.
const AT_ONCE: u16 = 4;
const MOST: u64 = 256 << 10;
/// So many zeroes are not written as data.
const ZEROES: u64 = 64 << 10;
/// How long changes in flight may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it sleeps at a time.
const NAP: Duration = Duration::from_millis(50);

/// Lets changes go on when it is dropped.
struct Held<'a>(&'a Queues);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

/// See the [module](self). It is used on one thread.
pub struct Copier {
    sides: Arc<Sides>,
    to: usize,
    source: Reader,
    target: Reader,
    /// What a request to the target must not cross, and the most zeroes that it takes at once.
    chunk: u64,
    zeroes: u64,
    block: u64,
    data: Vec<u8>,
}

/// Why it does not go on.
pub type GivenUp<'a> = &'a dyn Fn() -> bool;

impl Copier {
    /// From one disk to the side `to`, which is the other.
    pub fn new(
        sides: Arc<Sides>,
        to: usize,
        from: &Arc<dyn Backend>,
        into: &Arc<dyn Backend>,
        reporter: &Reporter,
    ) -> Result<Self> {
        let most = u32::try_from(MOST).unwrap_or(u32::MAX);
        let source = Reader::new(from.clone(), AT_ONCE, most, reporter.clone())?;
        let target = Reader::changing(into.clone(), AT_ONCE, most, reporter.clone())?;
        let Properties { chunk: from, .. } = from.properties();
        let Properties { chunk, discard, block_size, .. } = into.properties();
        let chunk = match (u64::from(from), u64::from(chunk)) {
            (0, chunk) | (chunk, 0) => chunk,
            (one, other) => one.min(other),
        };
        let zeroes = discard.map_or(0, |discard| discard.max_write_zeroes);
        Ok(Self { sides, to, source, target, chunk, zeroes, block: block_size.into(), data: Vec::new() })
    }

    /// Copies all that is missing, at most `rate` bytes a second. `given_up` is asked now and then; `progress` is told how many
    /// parts are still missing.
    pub fn run(&mut self, rate: Option<u64>, given_up: GivenUp<'_>, progress: &dyn Fn(u64)) -> Result<()> {
        let parts = self.sides.parts();
        let most = rate.map_or(PIECE, |rate| (rate / 8).clamp(LEAST, PIECE)) / BLOCK * BLOCK;
        let mut missing = self.sides.side(self.to).dirty.count();
        let mut at = 0;
        loop {
            progress(missing);
            let Some(part) = self.sides.side(self.to).dirty.next_within(at..parts) else {
                // A change that has failed may have left something behind.
                missing = self.sides.side(self.to).dirty.count();
                if missing == 0 {
                    self.sides.copies(self.to, None);
                    return Ok(());
                }
                at = 0;
                continue;
            };
            let end = ((part + 1) * self.sides.part).min(self.sides.size);
            self.sides.copies(self.to, Some(part));
            let mut from = part * self.sides.part;
            while from < end {
                let began = Instant::now();
                let to = (from + most).min(end);
                self.piece(from..to, given_up)?;
                if let Some(rate) = rate {
                    let due = Duration::from_secs_f64((to - from) as f64 / rate.max(1) as f64);
                    pause(due.saturating_sub(began.elapsed()), given_up);
                }
                from = to;
            }
            self.sides.side(self.to).dirty.clear(part);
            (at, missing) = (part + 1, missing.saturating_sub(1));
        }
    }

    fn piece(&mut self, range: Range<u64>, given_up: GivenUp<'_>) -> Result<()> {
        let Self { sides, source, target, data, chunk, zeroes, block, .. } = self;
        let failed = |what: &str, errno| {
            if given_up() {
                return Error::new(ErrorKind::Cancelled, "the copy was cancelled");
            }
            let error = io::Error::from_raw_os_error(errno);
            Error::system(format!("cannot {what}"), &error).kind(ErrorKind::Backend)
        };
        // What waits outside the ring, such as what was held up, is told while nothing is copied, too.
        source.idle().map_err(|errno| failed("read the disk", errno))?;
        target.idle().map_err(|errno| failed("write to the other disk", errno))?;
        if given_up() {
            return Err(failed("", 0));
        }
        let held = Held(&sides.queues);
        sides.queues.hold_changes(&range, PATIENCE)?;
        data.resize(to_usize(range.end - range.start), 0);
        let requests = requests(&range, *chunk);
        for some in requests.chunks(AT_ONCE.into()) {
            let mut done = vec![0; some.len()];
            let mut take = |index: usize, bytes: &[u8]| {
                let from = to_usize(some[index].start - range.start) + done[index];
                data[from..from + bytes.len()].copy_from_slice(bytes);
                done[index] += bytes.len();
            };
            source.read_unless(given_up, some, &mut take).map_err(|errno| failed("read the disk", errno))?;
        }
        let place = |at: u64| to_usize(at - range.start);
        let (mut empty, mut full) = (Vec::new(), Vec::new());
        for request in requests {
            let zero = data[place(request.start)..place(request.end)].iter().all(|byte| *byte == 0);
            let length = request.end - request.start;
            let whole = length.is_multiple_of(*block);
            if zero && whole && *zeroes >= length && length >= ZEROES { &mut empty } else { &mut full }
                .push(request);
        }
        let written = |errno| failed("write to the other disk", errno);
        for some in empty.chunks(AT_ONCE.into()) {
            target.change_unless(given_up, Op::WriteZeroes, some, &|_, _| {}).map_err(written)?;
        }
        let give = |at: u64, into: &mut [u8]| into.copy_from_slice(&data[place(at)..place(at) + into.len()]);
        for some in full.chunks(AT_ONCE.into()) {
            target.change_unless(given_up, Op::Write, some, &give).map_err(written)?;
        }
        drop(held);
        Ok(())
    }

    /// Makes durable what was written to the side.
    pub fn flush(&mut self, given_up: GivenUp<'_>) -> Result<()> {
        let flushed =
            self.target.change_unless(given_up, Op::Flush, std::slice::from_ref(&(0..0)), &|_, _| {});
        flushed.map_err(|errno| {
            let error = io::Error::from_raw_os_error(errno);
            Error::system("cannot flush the other disk", &error).kind(ErrorKind::Backend)
        })
    }
}

/// A range, in requests of which none crosses a multiple of `chunk`.
fn requests(range: &Range<u64>, chunk: u64) -> Vec<Range<u64>> {
    let most = if chunk == 0 { MOST } else { chunk.min(MOST) };
    let (mut at, mut requests) = (range.start, Vec::new());
    while at < range.end {
        let end = (at / most * most + most).min(range.end);
        requests.push(at..end);
        at = end;
    }
    requests
}

/// Sleeps, unless it is given up.
fn pause(duration: Duration, given_up: GivenUp<'_>) {
    let until = Instant::now() + duration;
    while !given_up() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(NAP));
    }
}
