//! Queues of many devices on the same few threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;
use ublk_core::backend::{Backend, Engine, Io, Memory, Null, Piece, Properties, Site, Slot, Step};
use ublk_core::claim::Place;
use ublk_core::queue::Op;
use ublk_core::spec::Threads;
use ublk_core::{Bound, Device, Event, Spec};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;

fn shared() -> Spec {
    Spec { threads: Threads::Shared, depth: 16, ..Spec::default() }
}

/// The threads that serve queues.
fn servers() -> Vec<String> {
    let is_server = |name: &String| {
        name.starts_with("ublk-shared")
            || name.strip_prefix("ublk").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    system::threads().into_iter().filter(is_server).collect()
}

fn none_is_left() {
    eventually("the threads end with their last queue", || servers().is_empty());
}

/// Somebody who reads and writes a checking disk all the time, and notices every error.
struct Neighbour {
    disk: Disk,
    checking: Arc<Checking>,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
}

impl Neighbour {
    fn start(spec: &Spec) -> Self {
        let checking = Checking::new(16 * MIB, 512);
        let disk = Disk::share(spec, checking.clone());
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (file, counter, over) = (disk.open(), done.clone(), stop.clone());
        let client = std::thread::spawn(move || {
            for round in 0.. {
                if over.load(SeqCst) {
                    return;
                }
                transfer(&file, round);
                counter.fetch_add(1, SeqCst);
            }
        });
        Self { disk, checking, done, stop, client: Some(client) }
    }

    /// Returns when it has got so much further, which it has to.
    fn goes_on(&self) {
        let before = self.done.load(SeqCst);
        eventually("a neighbour goes on", || self.done.load(SeqCst) > before + 10);
    }

    fn finish(mut self) {
        self.goes_on();
        self.stop.store(true, SeqCst);
        self.client.take().unwrap().join().unwrap();
        self.checking.assert_right();
        self.disk.finish();
    }
}

/// Eight requests at once, each at another place.
fn transfer(file: &File, round: u64) {
    let place = |at: u64| (round * 8 + at) % 200 * (64 << 10);
    let mut all: Vec<_> = (0..8)
        .map(|at| match (round + at) % 2 {
            0 => Transfer::write(place(at), 4096 << (at % 4)),
            _ => Transfer::read(place(at), 4096 << (at % 4)),
        })
        .collect();
    let done = at_once(file, &mut all);
    for (transfer, done) in all.iter().zip(done) {
        assert_eq!(done, transfer.data.len() as i32);
        assert_eq!(first_wrong(&transfer.data, transfer.offset), None);
    }
}

#[test]
fn idle_devices_cost_neither_a_thread_nor_a_wake_up() {
    let _alone = alone();
    let spec = Spec { queues: 2, ..shared() };
    let disks: Vec<_> = (0..16).map(|_| Disk::start(&spec, Null::new(MIB))).collect();
    let servers = servers();
    assert!(servers.len() <= cpus().len().min(4), "{servers:?}");
    assert!(servers.iter().all(|name| name.starts_with("ublk-shared")), "{servers:?}");
    // What looks at a new disk does so soon; from then on nobody has anything to do.
    let mut last = 0;
    eventually("the threads sleep", || {
        sleep(Duration::from_millis(500));
        let now = system::sleeps("ublk-shared");
        std::mem::replace(&mut last, now) == now
    });
    sleep(Duration::from_secs(10));
    assert_eq!(system::sleeps("ublk-shared"), last, "wake-ups of idle threads");
    // They were not dead.
    disks.iter().for_each(|disk| disk.open().read_exact_at(&mut Aligned::new(4096), 0).unwrap());
    assert!(system::sleeps("ublk-shared") > last);
    disks.into_iter().for_each(Disk::finish);
    none_is_left();
}

#[test]
fn many_disks_at_once_read_what_was_written_on_them() {
    let _alone = alone();
    for queues in [1, 2] {
        let neighbours: Vec<_> = (0..6).map(|_| Neighbour::start(&Spec { queues, ..shared() })).collect();
        neighbours.iter().for_each(Neighbour::goes_on);
        neighbours.into_iter().for_each(Neighbour::finish);
        none_is_left();
    }
}

#[test]
fn disks_come_and_go_while_others_are_used() {
    let _alone = alone();
    let neighbours: Vec<_> = (0..3).map(|_| Neighbour::start(&shared())).collect();
    for round in 0..12 {
        let spec = Spec { queues: 1 + round % 2, ..shared() };
        let disk = Disk::start(&spec, Memory::new(16 * MIB).unwrap());
        disk.open().write_all_at(&Aligned::filled(4096, 7), MIB).unwrap();
        if round % 3 == 0 {
            disk.device().stop(true, &Bound::standard()).unwrap();
            disk.device().start(&Bound::standard()).unwrap();
        }
        // Under load or idle; the whole is read by another process, which gets errors when it comes too late.
        let reader = (round % 2 == 0).then(|| Beside::reader(&disk.path()));
        neighbours.iter().for_each(Neighbour::goes_on);
        disk.device().delete(true, &Bound::standard()).unwrap();
        reader.map(|reader| reader.end("a reader of a disk that went"));
        disk.finish();
    }
    neighbours.into_iter().for_each(Neighbour::finish);
    none_is_left();
}

#[test]
fn a_panic_costs_its_request_and_no_neighbour() {
    let _alone = alone();
    let neighbour = Neighbour::start(&shared());
    let backend = Scripted::new(16 * MIB, |io| match io.request.what.offset {
        MIB => panic!("the third cylinder is on fire"),
        _ => Ok(io.request.what.length as u32),
    });
    let disk = Disk::start(&shared(), backend);
    for _ in 0..20 {
        let error = disk.open().read_at(&mut Aligned::new(4096), MIB).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        neighbour.goes_on();
    }
    assert_eq!(disk.events().all().len(), 20);
    disk.device().delete(true, &Bound::standard()).unwrap();
    neighbour.finish();
    none_is_left();
}

/// What an engine may do wrong beside answering badly.
#[derive(Clone, Copy)]
enum Panic {
    /// Panics with something that panics again when it is dropped: what the engine's loop does not expect.
    Twice,
    /// The same, with an operation in the ring.
    WhileItWorks,
    /// The same, and when it is dropped too.
    InTheEnd,
}

struct Bad {
    gate: Arc<Gate>,
    how: Panic,
}

impl Backend for Bad {
    fn properties(&self) -> Properties {
        Properties::new(16 * MIB)
    }
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        let slot = self.gate.slot(site);
        Ok(Box::new(BadEngine { bad: self, slot, armed: false }))
    }
}

struct BadEngine {
    bad: Arc<Bad>,
    slot: Slot,
    armed: bool,
}

impl Engine for BadEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.offset != MIB {
            return Step::Done(Ok(piece.length as u32));
        }
        self.armed = true;
        if matches!(self.bad.how, Panic::WhileItWorks) {
            self.bad.gate.wait(self.slot, io);
        }
        std::panic::panic_any(PanicsAgain)
    }
}

impl Drop for BadEngine {
    fn drop(&mut self) {
        assert!(!self.armed || !matches!(self.bad.how, Panic::InTheEnd), "not even the end is");
    }
}

#[test]
fn a_queue_that_dies_takes_its_device_down_and_no_neighbour() {
    let _alone = alone();
    for queues in [1, 2] {
        for how in [Panic::Twice, Panic::WhileItWorks, Panic::InTheEnd] {
            // On one CPU there is one shared thread: it has all queues of both.
            for cpu in [None, cpus().first().copied()] {
                let start = move || {
                    let spec = Spec { queues, ..shared() };
                    (Disk::start(&spec, Bad { gate: Gate::new(), how }), Neighbour::start(&spec))
                };
                let (disk, neighbour) = match cpu {
                    Some(cpu) => on_cpu(cpu, start).join().unwrap(),
                    None => start(),
                };
                let file = disk.open();
                let client = std::thread::spawn(move || file.read_at(&mut Aligned::new(4096), MIB));
                let why = disk.events().exit();
                assert!(why.contains("failed"), "{why}");
                let _ = within("a read from a queue that died", || client.join().unwrap());
                neighbour.goes_on();
                // It can be started again.
                disk.device().start(&Bound::standard()).unwrap();
                disk.open().read_exact_at(&mut Aligned::new(4096), 2 * MIB).unwrap();
                disk.device().delete(true, &Bound::standard()).unwrap();
                neighbour.finish();
                none_is_left();
            }
        }
    }
}

#[test]
fn requests_that_wait_hold_no_neighbour_up() {
    let _alone = alone();
    let gate = Gate::new();
    let disk = Disk::share(&shared(), Checking::gated(16 * MIB, 512, Some(gate.clone()))).settled();
    let neighbour = Neighbour::start(&shared());
    let file = disk.open();
    let client = std::thread::spawn(move || file.read_at(&mut Aligned::new(512), MIB));
    eventually("the request is at the server", || gate.arrived() == 1);
    neighbour.goes_on();
    gate.open(1);
    assert_eq!(within("the request", || client.join().unwrap()).unwrap(), 512);
    neighbour.finish();
    disk.finish();
    none_is_left();
}

#[test]
fn a_backend_that_cannot_make_its_engine_harms_no_neighbour() {
    let _alone = alone();
    struct Broken;
    impl Backend for Broken {
        fn properties(&self) -> Properties {
            Null::new(MIB).properties()
        }
        fn places(&self) -> Vec<Place<'_>> {
            Vec::new()
        }

        fn engine(self: Arc<Self>, _site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
            panic!("no engine")
        }
    }
    let neighbour = Neighbour::start(&shared());
    let events = Events::default();
    let device = Device::create(&shared(), Arc::new(Broken), &Bound::standard(), events.listener()).unwrap();
    let error = device.start(&Bound::standard()).unwrap_err();
    assert_eq!(error.message, "the backend panicked");
    device.delete(true, &Bound::standard()).unwrap();
    assert_eq!(events.all(), []);
    neighbour.finish();
    none_is_left();
}

#[test]
fn own_and_shared_threads_live_side_by_side() {
    let _alone = alone();
    let own = Neighbour::start(&Spec { threads: Threads::Own, ..shared() });
    let with = Neighbour::start(&shared());
    let names = servers();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&format!("ublk{}q0", own.disk.device().id())), "{names:?}");
    with.finish();
    eventually("the shared thread is gone", || servers().len() == 1);
    own.goes_on();
    // Another one that shares finds a new thread.
    Neighbour::start(&shared()).finish();
    assert!(own.disk.events().all().iter().all(|event| matches!(event, Event::Error { .. })));
    let reads = own.disk.device().counters()[0].of(Op::Read).ops.get();
    assert!(reads > 0);
    own.finish();
    none_is_left();
}

/// What they allocate must not wait for the disk that they serve.
#[test]
fn every_thread_that_serves_is_an_io_flusher() {
    const PR_GET_IO_FLUSHER: libc::c_int = 58;
    let _alone = alone();
    for threads in [Threads::Own, Threads::Shared] {
        let flushers = Arc::new(AtomicU64::new(0));
        let found = flushers.clone();
        let backend = Scripted::new(16 * MIB, move |io| {
            // SAFETY: plain numbers.
            let flusher = unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) } == 1;
            found.fetch_add(u64::from(flusher && io.request.what.offset == MIB), SeqCst);
            Ok(io.request.what.length as u32)
        });
        let disk = Disk::start(&Spec { threads, ..shared() }, backend);
        disk.open().read_exact_at(&mut Aligned::new(4096), MIB).unwrap();
        assert_eq!(flushers.load(SeqCst), 1, "{threads:?}");
        disk.finish();
    }
    none_is_left();
}
