//! Disks whose operations are futures, on the real driver.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use ublk_core::backend::{Async, AsyncDisk, Backend, Lease, Properties};
use ublk_core::queue::{Errno, Flags};
use ublk_core::spec::Recovery;
use ublk_core::{Bound, Pages, Spec, registry};
use ublk_kernel_tests::{Disk, Transfer, alone, at_once, eventually, exercise, system};

const SIZE: u64 = 16 << 20;

/// A disk in memory, each of whose operations first waits for a thread that wakes it.
struct Slow {
    bytes: Mutex<Vec<u8>>,
    alarm: mpsc::Sender<Waker>,
    switch: Arc<Switch>,
}

/// What a test sets and sees of it.
#[derive(Default)]
struct Switch {
    /// Reads never end.
    hangs: AtomicBool,
    /// Reads that hang.
    hanging: AtomicU32,
}

impl Slow {
    fn new() -> (Self, Arc<Switch>) {
        let (alarm, wakers) = mpsc::channel::<Waker>();
        std::thread::spawn(move || {
            for waker in wakers {
                std::thread::sleep(Duration::from_micros(50));
                waker.wake();
            }
        });
        let switch = Arc::<Switch>::default();
        (Self { bytes: Mutex::new(vec![0; SIZE as usize]), alarm, switch: switch.clone() }, switch)
    }

    async fn later(&self) {
        let mut polled = false;
        poll_fn(|context| {
            if polled {
                return Poll::Ready(());
            }
            polled = true;
            self.alarm.send(context.waker().clone()).unwrap();
            Poll::Pending
        })
        .await;
    }
}

impl AsyncDisk for Slow {
    fn properties(&self) -> Properties {
        Properties::new(SIZE)
    }

    async fn read(self: Arc<Self>, offset: u64, mut into: Lease) -> Result<(), Errno> {
        self.later().await;
        if self.switch.hangs.load(SeqCst) {
            let _hanging = Hanging::new(self.switch.clone());
            return std::future::pending().await;
        }
        let length = into.length();
        into.put(0, &self.bytes.lock().unwrap()[offset as usize..][..length]);
        Ok(())
    }

    async fn write(self: Arc<Self>, offset: u64, from: Lease, _flags: Flags) -> Result<(), Errno> {
        self.later().await;
        self.bytes.lock().unwrap()[offset as usize..][..from.length()].copy_from_slice(&from.to_vec());
        Ok(())
    }
}

/// Counts a read until its future is dropped.
struct Hanging(Arc<Switch>);

impl Hanging {
    fn new(switch: Arc<Switch>) -> Self {
        switch.hanging.fetch_add(1, SeqCst);
        Self(switch)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, SeqCst);
    }
}

/// Runs a future on a thread of its own.
fn spawn(task: Pin<Box<dyn Future<Output = ()> + Send>>) {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    std::thread::spawn(move || {
        let (mut task, waker) = (task, Waker::from(Arc::new(Unpark(std::thread::current()))));
        while task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            std::thread::park();
        }
    });
}

#[test]
fn a_disk_of_futures_reads_what_was_written_wherever_they_run() {
    let _alone = alone();
    let disks: [Arc<dyn Backend>; 2] =
        [Arc::new(Async::on_queue(Slow::new().0)), Arc::new(Async::spawned(Slow::new().0, spawn))];
    for backend in disks {
        let disk = Disk::share(&Spec { queues: 2, ..Spec::default() }, backend);
        exercise(&disk);
        disk.finish();
    }
}

#[test]
fn futures_that_never_end_are_dropped_when_their_disk_is_left() {
    let _alone = alone();
    let (slow, switch) = Slow::new();
    let before = system::locked();
    let lock = Pages { lock: true, ..Pages::default() };
    let disk = Disk::start(
        &Spec { buffers: lock, recovery: Some(Recovery::Requeue), ..Spec::default() },
        Async::on_queue(slow),
    );
    let file = disk.open();
    switch.hangs.store(true, SeqCst);
    let reader = std::thread::spawn(move || at_once(&file, &mut [Transfer::read(0, 4096)]));
    eventually("a read hangs", || switch.hanging.load(SeqCst) == 1);
    // As a server that fails: the read fails with it, and the disk waits for another server.
    disk.device().abandon(true, &Bound::standard()).unwrap();
    assert!(reader.join().unwrap()[0] < 0);
    assert_eq!(switch.hanging.load(SeqCst), 0);
    // Buffers in which something may still be written would be kept for ever.
    assert_eq!(system::locked(), before);
    registry::delete(disk.device().id(), false, &Bound::standard()).unwrap();
}
