//! The threads that serve a started device: one per queue.

use super::{Device, Event, Listener};
use crate::backend::Backend;
use crate::control::{Bound, Control};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::drive::{Ended, serve};
use crate::queue::{Config, Queue, QueueCounters, Waker};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the queues may take to get ready, and to end once the driver has stopped the device.
const PATIENCE: Duration = Duration::from_secs(10);

/// A started device's threads.
pub struct Serving {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    wakers: Vec<Waker>,
    ended: std::sync::mpsc::Receiver<()>,
}

struct Shared {
    id: u32,
    listener: Listener,
    control: Control,
    /// Queues that still serve.
    running: AtomicU32,
    /// The owner asked for the end.
    expected: AtomicBool,
    /// Why a queue failed.
    failure: Mutex<Option<String>>,
}

impl Serving {
    /// Starts the threads; returns when every queue has offered all its tags.
    pub fn start(device: &Device, char_dev: OwnedFd) -> Result<Self> {
        let shared = Arc::new(Shared {
            id: device.id,
            listener: device.listener.clone(),
            control: device.control.clone(),
            running: AtomicU32::new(device.queues.into()),
            expected: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let char_dev = Arc::new(char_dev);
        let (ready, readiness) = sync_channel(usize::from(device.queues));
        let (last, ended) = sync_channel(1);
        let wakers = (0..device.queues).map(|_| Waker::new()).collect::<Result<Vec<_>>>()?;
        let mut serving = Self { shared, threads: Vec::new(), wakers, ended };
        for (index, counters) in (0..device.queues).zip(&device.counters) {
            let thread = QueueThread {
                shared: serving.shared.clone(),
                backend: device.backend.clone(),
                char_dev: char_dev.clone(),
                durable: !device.checked.write_cache,
                index,
                depth: device.depth,
                max_io: device.max_io,
                counters: counters.clone(),
                waker: serving.wakers[usize::from(index)].clone(),
                ready: ready.clone(),
                last: last.clone(),
            };
            let spawned = std::thread::Builder::new()
                .name(format!("ublk{}q{index}", device.id))
                .stack_size(256 << 10)
                .spawn(move || thread.run());
            match spawned {
                Ok(handle) => serving.threads.push(handle),
                Err(error) => {
                    drop(last);
                    serving.abandon();
                    return Err(Error::system("cannot start a queue's thread", &error));
                }
            }
        }
        drop((ready, last, char_dev));
        for _ in 0..device.queues {
            let failed = match readiness.recv_timeout(PATIENCE) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => Error::new(ErrorKind::Timeout, "the queues did not become ready").device(device.id),
            };
            serving.abandon();
            return Err(failed);
        }
        Ok(serving)
    }

    /// From here on, an end is nothing to report.
    pub fn expect_end(&self) {
        self.shared.expected.store(true, Ordering::SeqCst);
    }

    /// Whether every queue has ended.
    pub fn over(&self) -> bool {
        self.shared.running.load(Ordering::SeqCst) == 0
    }

    /// Waits for the threads, which end by themselves when the device is stopped. Those that do not are woken
    /// to leave their rings; those that even then do not are left to themselves.
    pub fn join(self) -> Result<()> {
        for last_call in [false, true] {
            if last_call {
                self.wakers.iter().for_each(Waker::wake);
            }
            if self.ended.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                for thread in self.threads {
                    // A thread that panicked has said so already.
                    let _ = thread.join();
                }
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Timeout, "the queues' threads did not end").device(self.shared.id))
    }

    /// Ends the threads of a device that does not come alive.
    pub fn abandon(self) {
        self.expect_end();
        // The driver gives every tag back, also of a device that never was alive. What fails here leaves
        // nothing else to try, and the failure that led here is the one to tell.
        let _ = self.shared.control.stop(self.shared.id, &Bound::standard());
        let _ = self.join();
    }
}

struct QueueThread {
    shared: Arc<Shared>,
    backend: Arc<dyn Backend>,
    char_dev: Arc<OwnedFd>,
    durable: bool,
    index: u16,
    depth: u16,
    max_io: u32,
    counters: Arc<QueueCounters>,
    waker: Waker,
    ready: SyncSender<Result<()>>,
    last: SyncSender<()>,
}

impl QueueThread {
    fn run(self) {
        let (shared, index, last) = (self.shared.clone(), self.index, self.last.clone());
        let ended = catch_unwind(AssertUnwindSafe(|| self.serve()))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::System, "the queue's thread panicked")));
        // Here the ring, the mapping and this thread's hold on /dev/ublkcN are gone.
        if let Err(error) = &ended {
            shared.fail(index, error);
        }
        if shared.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared.all_ended();
            let _ = last.send(());
        }
    }

    fn serve(self) -> Result<Ended> {
        let opened = self.open();
        let (mut queue, mut engine) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let _ = self.ready.send(Err(error));
                return Ok(Ended::Left);
            }
        };
        let _ = self.ready.send(Ok(()));
        let (listener, index) = (&self.shared.listener, self.index);
        let mut panicked = |message| listener(Event::Error { queue: index, message });
        serve(&mut queue, &mut *engine, &mut panicked)
    }

    fn open(&self) -> Result<(Queue, Box<dyn crate::backend::Engine + '_>)> {
        become_io_flusher()?;
        let config = Config {
            index: self.index,
            depth: self.depth,
            max_io: self.max_io,
            files: self.backend.files().iter().map(AsRawFd::as_raw_fd).collect(),
            waker: self.waker.clone(),
            counters: self.counters.clone(),
        };
        let mut queue = Queue::open(self.char_dev.clone(), config)?;
        let engine = self.backend.engine(self.depth, self.durable)?;
        queue.offer_all()?;
        Ok((queue, engine))
    }
}

impl Shared {
    /// A queue failed: without it the disk would hang, so the whole device is stopped.
    fn fail(&self, index: u16, error: &Error) {
        let message = format!("queue {index} failed: {error}");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| message.clone());
        if !self.expected.load(Ordering::SeqCst) {
            (self.listener)(Event::Error { queue: index, message });
        }
        let _ = self.control.stop(self.id, &Bound::standard());
    }

    fn all_ended(&self) {
        if self.expected.load(Ordering::SeqCst) {
            return;
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        let message = failure.unwrap_or_else(|| format!("device {} was stopped by somebody else", self.id));
        (self.listener)(Event::Exit { message });
    }
}

/// `linux/prctl.h`, since 5.6; the libc crate does not have it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that this thread serves a disk: what it allocates must not wait for that disk.
fn become_io_flusher() -> Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        // Not ours to have without CAP_SYS_RESOURCE: as safe as any program that is no disk server.
        Some(libc::EPERM) => Ok(()),
        _ => Err(Error::system("cannot become an I/O flusher", &error)),
    }
}
