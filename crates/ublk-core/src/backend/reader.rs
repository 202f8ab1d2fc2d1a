//! Reads a backend outside its queues, on any thread that may block, with an engine of its own.

use super::{Backend, Completer, Completion, Engine, Site, Step};
use crate::error::Result;
use crate::number::to_usize;
use crate::queue::{Descriptor, Errno, LoneQueue, Op, Wait, Waker};
use crate::report::Reporter;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// See the [module](self). It is used on the thread that has made it.
pub struct Reader {
    engine: Box<dyn Engine>,
    queue: LoneQueue,
    completer: Completer,
    waker: Waker,
    depth: u16,
}

/// What is being read.
struct Batch<'a> {
    ranges: &'a mut [Range<u64>],
    take: &'a mut dyn FnMut(usize, &[u8]),
    /// How many of them are not done.
    left: usize,
    failed: Option<Errno>,
}

/// How long it sleeps at most before it looks again.
const NAP: Duration = Duration::from_millis(100);
/// The same while operations are in the ring: only these end such a sleep.
const MOMENT: Duration = Duration::from_millis(2);

impl Reader {
    /// Reads at most `depth` ranges at a time, of at most `most` bytes each.
    pub fn new(disk: Arc<dyn Backend>, depth: u16, most: u32, reporter: Reporter) -> Result<Self> {
        let waker = Waker::new()?;
        let completer = Completer::new(waker.clone());
        let mut site = Site::new(depth, most, false, completer.clone(), reporter);
        let engine = disk.engine(&mut site)?;
        let queue = LoneQueue::new(depth, most, site.needs(), waker.clone())?;
        Ok(Self { engine, queue, completer, waker, depth })
    }

    /// Reads some ranges of the disk at a time, at most as many as the reader was made for. `take` gets the data of each, with
    /// its index, from its beginning to its end.
    pub fn read(
        &mut self,
        ranges: &[Range<u64>],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> std::result::Result<(), Errno> {
        self.read_unless(&|| false, ranges, take)
    }

    /// The same, unless it is `given_up` while it waits for something else than the kernel: nothing more can be read then.
    pub fn read_unless(
        &mut self,
        given_up: &dyn Fn() -> bool,
        ranges: &[Range<u64>],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> std::result::Result<(), Errno> {
        let mut ranges: Vec<_> = ranges.to_vec();
        let mut batch = Batch { left: ranges.len(), ranges: &mut ranges, take, failed: None };
        for tag in (0..self.depth).take(batch.ranges.len()) {
            self.begin(tag, &mut batch);
        }
        while batch.left > 0 {
            if !self.turn(Wait::No, &mut batch)? {
                continue;
            }
            if self.queue.operations() > 0 {
                self.turn(Wait::AtMost(MOMENT), &mut batch)?;
            } else if given_up() {
                return Err(libc::ECANCELED);
            } else {
                self.waker.wait(NAP);
            }
        }
        batch.failed.map_or(Ok(()), Err)
    }

    /// Does what other threads have asked its queue for. To be called now and then while nothing is read.
    pub fn idle(&mut self) -> std::result::Result<(), Errno> {
        self.turn(Wait::No, &mut Batch { ranges: &mut [], take: &mut |_, _| {}, left: 0, failed: None })
            .map(drop)
    }

    /// Serves what has happened. Whether nothing has.
    fn turn(&mut self, wait: Wait, batch: &mut Batch<'_>) -> std::result::Result<bool, Errno> {
        let mut completed = self.queue.turn(wait).map_err(|error| error.errno.unwrap_or(libc::EIO))?;
        let mut outside = Vec::new();
        self.completer.take(&mut outside);
        let nothing = completed.is_empty() && outside.is_empty();
        completed.extend(outside.into_iter().filter_map(|what| self.queue.outside(what)));
        for (tag, completion) in completed {
            self.go_on(tag, completion, batch);
        }
        while let Some((tag, completion)) = self.queue.going_on() {
            self.go_on(tag, completion, batch);
        }
        Ok(nothing)
    }

    fn begin(&mut self, tag: u16, batch: &mut Batch<'_>) {
        let range = &batch.ranges[usize::from(tag)];
        self.queue.begin(tag, Descriptor::new(Op::Read, range.start, range.end - range.start));
        let mut io = self.queue.io(tag);
        let piece = io.request.what.piece();
        let step = self.engine.start(&mut io, piece);
        self.after(tag, step, batch);
    }

    fn go_on(&mut self, tag: u16, completion: Completion, batch: &mut Batch<'_>) {
        let step = self.engine.resume(&mut self.queue.io(tag), completion);
        self.after(tag, step, batch);
    }

    fn after(&mut self, tag: u16, step: Step, batch: &mut Batch<'_>) {
        let Step::Done(outcome) = step else { return };
        self.queue.answered(tag);
        let index = usize::from(tag);
        let range = &mut batch.ranges[index];
        match outcome {
            Ok(done @ 1..) if u64::from(done) <= range.end - range.start => {
                (batch.take)(index, &self.queue.buffer(tag)[..to_usize(done.into())]);
                range.start += u64::from(done);
                if !range.is_empty() {
                    return self.begin(tag, batch); // a read may be done in part
                }
            }
            Ok(_) => batch.failed = Some(libc::EIO),
            Err(errno) => batch.failed = Some(errno),
        }
        batch.left -= 1;
    }
}
