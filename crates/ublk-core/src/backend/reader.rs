//! Reads a backend outside its queues, on any thread that may block, with an engine of its own; or changes it.

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
    op: Op,
    ranges: &'a mut [Range<u64>],
    take: &'a mut dyn FnMut(usize, &[u8]),
    /// Fills the buffer for a write, from that byte of the disk on.
    give: &'a dyn Fn(u64, &mut [u8]),
    /// How many of them are not done.
    left: usize,
    failed: Option<Errno>,
    /// The tags of those that have failed, of which operations are in the ring.
    failing: Vec<u16>,
}

/// How long it sleeps at most before it looks again.
const NAP: Duration = Duration::from_millis(100);
/// The same while operations are in the ring: only these end such a sleep.
const MOMENT: Duration = Duration::from_millis(2);

impl Reader {
    /// Reads at most `depth` ranges at a time, of at most `most` bytes each.
    pub fn new(disk: Arc<dyn Backend>, depth: u16, most: u32, reporter: Reporter) -> Result<Self> {
        Self::with(disk, depth, most, reporter, true)
    }

    /// One that also [changes](Self::change_unless) the disk.
    pub fn changing(disk: Arc<dyn Backend>, depth: u16, most: u32, reporter: Reporter) -> Result<Self> {
        Self::with(disk, depth, most, reporter, false)
    }

    fn with(disk: Arc<dyn Backend>, depth: u16, most: u32, reporter: Reporter, reads: bool) -> Result<Self> {
        let waker = Waker::new()?;
        let completer = Completer::new(waker.clone());
        let site = Site::new(depth, most, false, completer.clone(), reporter);
        let mut site = if reads { site.of_reader() } else { site };
        let engine = disk.engine(&mut site)?;
        let queue = LoneQueue::new(depth, most, site.needs(), waker.clone())?;
        Ok(Self { engine, queue, completer, waker, depth })
    }

    /// Reads some ranges of the disk at a time, at most as many as the reader was made for. `take` gets the data of each, with
    /// its index, from its beginning to its end. If it is `given_up` while it waits for something else than the kernel, it
    /// fails with `ECANCELED`, and nothing more can be read.
    pub fn read_unless(
        &mut self,
        given_up: &dyn Fn() -> bool,
        ranges: &[Range<u64>],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> std::result::Result<(), Errno> {
        self.run(given_up, Op::Read, ranges, take, &|_, _| {})
    }

    /// The same for changes, which are done whole. `give` fills a buffer with what is to be at some byte of the disk; only writes
    /// have data. Of a backend whose engine may change it.
    pub fn change_unless(
        &mut self,
        given_up: &dyn Fn() -> bool,
        op: Op,
        ranges: &[Range<u64>],
        give: &dyn Fn(u64, &mut [u8]),
    ) -> std::result::Result<(), Errno> {
        self.run(given_up, op, ranges, &mut |_, _| {}, give)
    }

    fn run(
        &mut self,
        given_up: &dyn Fn() -> bool,
        op: Op,
        ranges: &[Range<u64>],
        take: &mut dyn FnMut(usize, &[u8]),
        give: &dyn Fn(u64, &mut [u8]),
    ) -> std::result::Result<(), Errno> {
        let mut ranges: Vec<_> = ranges.to_vec();
        let left = ranges.len();
        let mut batch =
            Batch { op, ranges: &mut ranges, take, give, left, failed: None, failing: Vec::new() };
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
        let (take, give) = (&mut |_: usize, _: &[u8]| {}, &|_: u64, _: &mut [u8]| {});
        let (op, failing) = (Op::Read, Vec::new());
        let mut batch = Batch { op, ranges: &mut [], take, give, left: 0, failed: None, failing };
        self.turn(Wait::No, &mut batch).map(drop)
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
        let length = range.end - range.start;
        if batch.op == Op::Write {
            (batch.give)(range.start, &mut self.queue.buffer(tag)[..to_usize(length)]);
        }
        self.queue.begin(tag, Descriptor::new(batch.op, range.start, length));
        let mut io = self.queue.io(tag);
        let piece = io.request.what.piece();
        let step = self.engine.start(&mut io, piece);
        self.after(tag, step, batch);
    }

    fn go_on(&mut self, tag: u16, completion: Completion, batch: &mut Batch<'_>) {
        if batch.failing.contains(&tag) {
            return self.end(tag, batch);
        }
        let step = self.engine.resume(&mut self.queue.io(tag), completion);
        self.after(tag, step, batch);
    }

    fn after(&mut self, tag: u16, step: Step, batch: &mut Batch<'_>) {
        let Step::Done(outcome) = step else { return };
        if !self.queue.answered(tag) {
            // What it left in the ring uses the buffer, and has to come back first.
            batch.failed = Some(outcome.err().unwrap_or(libc::EIO));
            batch.failing.push(tag);
            return;
        }
        let index = usize::from(tag);
        let range = &mut batch.ranges[index];
        match outcome {
            Ok(_) if !batch.op.has_data() => {}
            Ok(done @ 1..) if u64::from(done) <= range.end - range.start => {
                if batch.op == Op::Read {
                    (batch.take)(index, &self.queue.buffer(tag)[..to_usize(done.into())]);
                }
                range.start += u64::from(done);
                if !range.is_empty() {
                    return self.begin(tag, batch); // it may be done in part
                }
            }
            Ok(_) => batch.failed = Some(libc::EIO),
            Err(errno) => batch.failed = Some(errno),
        }
        batch.left -= 1;
    }

    /// Ends a read that has failed, when none of its operations is in the ring any more.
    fn end(&mut self, tag: u16, batch: &mut Batch<'_>) {
        if self.queue.answered(tag) {
            batch.failing.retain(|failing| *failing != tag);
            batch.left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Below, File, Io, Piece, Properties};
    use crate::claim::Place;

    /// A disk that answers reads from 64 KiB on with an error while the disk below works on them.
    struct Hasty(Arc<dyn Backend>);

    impl Backend for Hasty {
        fn properties(&self) -> Properties {
            self.0.properties()
        }

        fn places(&self) -> Vec<Place<'_>> {
            Vec::new()
        }

        fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
            Ok(Box::new(HastyEngine(site.below(self.0.clone())?)))
        }
    }

    struct HastyEngine(Below);

    impl Engine for HastyEngine {
        fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
            let step = self.0.pass(io, piece);
            if piece.offset < 65536 {
                return step;
            }
            assert_eq!(step, Step::Pending);
            Step::Done(Err(libc::EBADMSG))
        }

        fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
            self.0.pass_on(io, completion)
        }
    }

    #[test]
    fn a_read_that_fails_while_the_kernel_works_on_it_ends_when_the_kernel_has_ended() {
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(1 << 20).unwrap();
        let disk = Arc::new(Hasty(Arc::new(File::open(path.path(), false, false).unwrap())));
        let mut reader = Reader::new(disk, 2, 4096, Reporter::new(|_| {})).unwrap();
        let failing = [0..4096, 65536..69632];
        for _ in 0..3 {
            let mut read = 0;
            let failed = reader.read_unless(&|| false, &failing, &mut |_, data| read += data.len());
            assert_eq!((failed, read), (Err(libc::EBADMSG), 4096));
            assert_eq!(reader.queue.operations(), 0);
        }
        reader.read_unless(&|| false, &[0..4096, 4096..8192], &mut |_, _| {}).unwrap();
    }
}
