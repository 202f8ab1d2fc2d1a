//! Disks whose operations are futures: polled on the queue's own thread, or given to a runtime elsewhere.

use super::{
    Backend, Completer, Completion, Engine, Io, Key, Lease, PerCall, Piece, Properties, Site, Step, Token,
};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::{Errno, Flags, Op};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// What an operation of a disk comes to: nothing, or an error number.
pub type Done = std::result::Result<(), Errno>;

/// A disk whose operations are futures. Each does all that it is asked for, or fails.
pub trait AsyncDisk: Send + Sync + 'static {
    /// The disk it offers.
    fn properties(&self) -> Properties;

    /// The files and block devices that hold its data.
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    /// Fills `into` from byte `offset` on.
    fn read(self: Arc<Self>, offset: u64, into: Lease) -> impl Future<Output = Done> + Send;

    /// Puts `from` at byte `offset`: durably, if the flags have [`Flags::FUA`], or the disk has no write cache.
    fn write(self: Arc<Self>, offset: u64, from: Lease, flags: Flags) -> impl Future<Output = Done> + Send;

    /// Makes every completed write durable.
    fn flush(self: Arc<Self>) -> impl Future<Output = Done> + Send {
        std::future::ready(Ok(()))
    }

    /// Bytes `offset` to `offset + length` are no longer needed.
    fn discard(self: Arc<Self>, offset: u64, length: u64) -> impl Future<Output = Done> + Send {
        let _ = (offset, length);
        std::future::ready(Err(libc::EOPNOTSUPP))
    }

    /// Bytes `offset` to `offset + length` read as zeroes from now on.
    fn write_zeroes(
        self: Arc<Self>,
        offset: u64,
        length: u64,
        flags: Flags,
    ) -> impl Future<Output = Done> + Send {
        let _ = (offset, length, flags);
        std::future::ready(Err(libc::EOPNOTSUPP))
    }

    /// This process stops serving the disk: makes durable what has to survive. May block.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Has a runtime run a future to its end.
type Spawn = Arc<dyn Fn(Task) + Send + Sync>;

/// A backend of an [`AsyncDisk`].
pub struct Async<D> {
    disk: Arc<D>,
    spawn: Option<Spawn>,
}

impl<D: AsyncDisk> Async<D> {
    /// Its futures are polled on the threads of the queues: they must not block.
    pub fn on_queue(disk: D) -> Self {
        Self { disk: Arc::new(disk), spawn: None }
    }

    /// `spawn` has a runtime run its futures, such as `move |task| drop(handle.spawn(task))`.
    pub fn spawned(
        disk: D,
        spawn: impl Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync + 'static,
    ) -> Self {
        Self { disk: Arc::new(disk), spawn: Some(Arc::new(spawn)) }
    }
}

impl<D: AsyncDisk> Backend for Async<D> {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.disk.places()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(AsyncEngine {
            disk: self.disk.clone(),
            spawn: self.spawn.clone(),
            completer: site.completer(),
            durable: site.durable(),
            calls: PerCall::new(site.depth()),
        }))
    }

    fn close(&self) -> Result<()> {
        self.disk.close()
    }
}

/// What a call waits for: its future to be polled again, or to have ended elsewhere.
const KEY: Key = 0;

#[derive(Default)]
struct Call {
    length: u32,
    /// On the queue's thread.
    future: Option<Pin<Box<dyn Future<Output = Done> + Send>>>,
}

struct AsyncEngine<D> {
    disk: Arc<D>,
    spawn: Option<Spawn>,
    completer: Completer,
    durable: bool,
    calls: PerCall<Call>,
}

impl<D: AsyncDisk> AsyncEngine<D> {
    fn future(
        &self,
        io: &mut Io<'_>,
        piece: &Piece,
    ) -> std::result::Result<Pin<Box<dyn Future<Output = Done> + Send>>, Errno> {
        let (disk, offset, length) = (self.disk.clone(), piece.offset, piece.length);
        let flags = if self.durable { piece.flags | Flags::FUA } else { piece.flags };
        Ok(match piece.op {
            Op::Read => Box::pin(disk.read(offset, io.lend(piece, &self.completer)?)),
            Op::Write => Box::pin(disk.write(offset, io.lend(piece, &self.completer)?, flags)),
            Op::Flush => Box::pin(disk.flush()),
            Op::Discard => Box::pin(disk.discard(offset, length)),
            Op::WriteZeroes => Box::pin(disk.write_zeroes(offset, length, flags)),
            Op::Other(_) => return Err(libc::EOPNOTSUPP),
        })
    }

    fn poll(&mut self, io: &mut Io<'_>) -> Step {
        let (completer, token) = (self.completer.clone(), io.token(KEY));
        let call = self.calls.of(io);
        let Some(future) = &mut call.future else { return Step::Done(Err(libc::EIO)) };
        let waker = Waker::from(Arc::new(Again { completer, token }));
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => Step::Pending,
            Poll::Ready(done) => {
                call.future = None;
                if io.lent() {
                    // It is given back through the completer, behind which comes this.
                    call.future = Some(Box::pin(std::future::ready(done)));
                    waker.wake();
                    return Step::Pending;
                }
                Step::Done(done.map(|()| call.length))
            }
        }
    }
}

impl<D: AsyncDisk> Engine for AsyncEngine<D> {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let future = match self.future(io, &piece) {
            Ok(future) => future,
            Err(errno) => return Step::Done(Err(errno)),
        };
        let token = io.token(KEY);
        let call = self.calls.of(io);
        call.length = piece.count();
        match &self.spawn {
            None => {
                call.future = Some(future);
                self.poll(io)
            }
            Some(spawn) => {
                call.future = None;
                let answer = Answer { completer: self.completer.clone(), token, result: -libc::EIO };
                spawn(Box::pin(async move { answer.is(future.await) }));
                Step::Pending
            }
        }
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        if self.spawn.is_none() {
            return self.poll(io);
        }
        let length = self.calls.of(io).length;
        Step::Done(if completion.result < 0 { Err(-completion.result) } else { Ok(length) })
    }
}

/// Has the call's future polled again.
struct Again {
    completer: Completer,
    token: Token,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.completer.complete(self.token, 0);
    }
}

/// Answers when it is dropped: also for a task that panics, or that its runtime drops.
struct Answer {
    completer: Completer,
    token: Token,
    result: i32,
}

impl Answer {
    fn is(mut self, done: Done) {
        self.result = done.map_or_else(|errno| -errno.clamp(1, 4095), |()| 0);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.completer.complete(self.token, self.result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::Bench;
    use crate::queue::{Descriptor, Outcome};
    use std::sync::Mutex;
    use std::time::Duration;

    const SIZE: u64 = 64 << 10;

    /// A disk in memory whose operations are ready at their second poll.
    struct Slow {
        bytes: Mutex<Vec<u8>>,
        fails: Mutex<Option<Errno>>,
        panics: bool,
    }

    impl Slow {
        fn new() -> Self {
            Self { bytes: Mutex::new(vec![0; SIZE as usize]), fails: Mutex::new(None), panics: false }
        }

        async fn later(&self) -> Done {
            let mut polled = false;
            std::future::poll_fn(|context| {
                if polled {
                    return Poll::Ready(());
                }
                polled = true;
                context.waker().wake_by_ref();
                context.waker().wake_by_ref(); // more often than needed
                Poll::Pending
            })
            .await;
            assert!(!self.panics, "it panics");
            self.fails.lock().unwrap().take().map_or(Ok(()), Err)
        }
    }

    impl AsyncDisk for Slow {
        fn properties(&self) -> Properties {
            Properties::new(SIZE)
        }

        async fn read(self: Arc<Self>, offset: u64, mut into: Lease) -> Done {
            self.later().await?;
            let length = into.length();
            into.put(0, &self.bytes.lock().unwrap()[offset as usize..][..length]);
            Ok(())
        }

        async fn write(self: Arc<Self>, offset: u64, from: Lease, _flags: Flags) -> Done {
            self.later().await?;
            self.bytes.lock().unwrap()[offset as usize..][..from.length()].copy_from_slice(&from.to_vec());
            Ok(())
        }
    }

    fn run(bench: &mut Bench, what: Descriptor) -> Outcome {
        if let Some(outcome) = bench.start(0, what) {
            return outcome;
        }
        loop {
            if let Some((_, outcome)) = bench.turn().pop() {
                return outcome;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// On the queue's thread, and each on a thread of its own.
    fn both(disk: fn() -> Slow) -> [Arc<dyn Backend>; 2] {
        let spawn = |task: Task| {
            let run = move || {
                let mut task = task;
                let mut context = Context::from_waker(Waker::noop());
                while task.as_mut().poll(&mut context).is_pending() {}
            };
            std::thread::spawn(run);
        };
        [Arc::new(Async::on_queue(disk())), Arc::new(Async::spawned(disk(), spawn))]
    }

    #[test]
    fn what_is_written_is_read_wherever_its_futures_run() {
        for disk in both(Slow::new) {
            let mut bench = Bench::new(disk, 2, 4096);
            bench.buffer(0).fill(7);
            assert_eq!(run(&mut bench, Descriptor::new(Op::Write, 8192, 4096)), Ok(4096));
            bench.buffer(0).fill(0);
            assert_eq!(run(&mut bench, Descriptor::new(Op::Read, 8192 + 512, 1024)), Ok(1024));
            assert!(bench.buffer(0)[..1024].iter().all(|byte| *byte == 7));
            assert_eq!(run(&mut bench, Descriptor::new(Op::Flush, 0, 0)), Ok(0));
            assert_eq!(run(&mut bench, Descriptor::new(Op::Discard, 0, 4096)), Err(libc::EOPNOTSUPP));
            assert_eq!(bench.operations(), 0);
        }
    }

    #[test]
    fn an_error_is_the_requests_and_a_task_that_panics_costs_its_request() {
        let failing = || Slow { fails: Mutex::new(Some(libc::ENOSPC)), ..Slow::new() };
        for disk in both(failing) {
            let mut bench = Bench::new(disk, 1, 4096);
            assert_eq!(run(&mut bench, Descriptor::new(Op::Write, 0, 4096)), Err(libc::ENOSPC));
            assert_eq!(run(&mut bench, Descriptor::new(Op::Write, 0, 4096)), Ok(4096));
        }
        let [_, spawned] = both(|| Slow { panics: true, ..Slow::new() });
        let mut bench = Bench::new(spawned, 1, 4096);
        assert_eq!(run(&mut bench, Descriptor::new(Op::Read, 0, 4096)), Err(libc::EIO));
    }
}
