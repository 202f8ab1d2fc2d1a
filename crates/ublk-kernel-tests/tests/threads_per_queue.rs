//! Queues that several threads serve.

use std::collections::{BTreeSet, HashMap};
use std::fs::File as Node;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use ublk_core::backend::{Backend, Engine, File, Io, Memory, Null, Piece, Properties, Site, Step};
use ublk_core::claim::Place;
use ublk_core::features::Features;
use ublk_core::queue::{CopyMode, Op, Transport};
use ublk_core::registry;
use ublk_core::spec::{Recovery, Threads};
use ublk_core::testing::Control;
use ublk_core::testing::abi::sys::UBLK_F_PER_IO_DAEMON;
use ublk_core::{Bound, Device, ErrorKind, Pages, Spec};
use ublk_kernel_tests::system::{Mounted, sparse};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;

fn features() -> Features {
    Control::open().unwrap().features(&Bound::standard()).unwrap()
}

/// A queue of three threads; of which one has more tags than the others.
fn spec() -> Spec {
    Spec { depth: 16, threads_per_queue: 3, ..Spec::default() }
}

/// The same for each transport that the driver has.
fn specs() -> impl Iterator<Item = Spec> {
    let able = Transport::ALL.into_iter().filter(|transport| features().has(transport.flags()));
    able.map(|transport| Spec { transport: Some(transport), ..spec() })
}

/// Whether the driver lets several threads serve a queue. Where it does not, it is not tried.
fn possible() -> bool {
    let able = features().has(UBLK_F_PER_IO_DAEMON.into());
    if !able {
        let null = Arc::new(Null::new(MIB));
        let refused = Device::create(&spec(), null, &Bound::standard(), Arc::new(|_| {})).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(refused.message.contains("this kernel lacks PER_IO_DAEMON"), "{refused}");
    }
    able
}

/// Sixteen reads at once, and whether all went well.
fn read_with_every_tag(disk: &Node) -> bool {
    let mut reads: Vec<_> = (0..16).map(|at| Transfer::read(at * MIB / 2, 4096)).collect();
    at_once(disk, &mut reads).iter().all(|done| *done == 4096)
}

/// Reads until every thread of the disk has answered some.
fn use_every_thread(disk: &Disk) {
    let file = disk.open();
    let counters = disk.device().counters();
    eventually("every thread answers", || {
        for cpu in cpus() {
            let file = file.try_clone().unwrap();
            assert!(on_cpu(cpu, move || read_with_every_tag(&file)).join().unwrap());
        }
        counters.iter().all(|thread| thread.of(Op::Read).ops.get() > 0)
    });
}

#[test]
fn several_threads_serve_a_queue_with_every_backend_and_in_every_way_of_the_data() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let mounted = Mounted::ext4(64 * MIB);
    let path = mounted.join("file");
    sparse(&path, SIZE);
    for copy in CopyMode::ALL {
        let backends: [Arc<dyn Backend>; 3] = [
            Arc::new(Memory::new(SIZE).unwrap()),
            Arc::new(File::open(&path, false, true).unwrap()),
            Arc::new(File::open(&path, false, false).unwrap()),
        ];
        for backend in backends {
            if !backend.copy_modes().contains(&copy) || !features().has(copy.flags()) {
                continue;
            }
            for (spec, queues) in specs().flat_map(|spec| [(spec.clone(), 1), (spec, 2)]) {
                let spec = Spec { copy: Some(copy), queues, ..spec };
                let disk = Disk::share(&spec, backend.clone());
                let threads = disk.device().counters().len();
                assert_eq!(threads, disk.device().counters_by_queue().len() * 3);
                let name = format!("ublk{}q", disk.device().id());
                let named = system::threads().iter().filter(|thread| thread.starts_with(&name)).count();
                assert_eq!(named, threads);
                exercise(&disk);
                use_every_thread(&disk);
                disk.finish();
            }
        }
    }
}

#[test]
fn each_tag_is_served_by_one_thread_which_has_buffers_for_no_other() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let owners = Arc::new(Mutex::new(HashMap::<u16, ThreadId>::new()));
    let found = owners.clone();
    let backend = Scripted::new(SIZE, move |io| {
        let thread = std::thread::current().id();
        let owner = *found.lock().unwrap().entry(io.request.ticket.tag).or_insert(thread);
        assert_eq!(owner, thread);
        Ok(io.request.what.length as u32)
    });
    // In locked memory, to see how much there is.
    let lock = Pages { lock: true, ..Pages::default() };
    let disk = Disk::start(&Spec { max_io: 64 << 10, buffers: lock, ..spec() }, backend);
    use_every_thread(&disk);
    assert!((16 * (64 << 10)..20 * (64 << 10)).contains(&system::locked()), "{}", system::locked());
    let owners = owners.lock().unwrap();
    for (tag, owner) in owners.iter() {
        assert_eq!(Some(owner), owners.get(&(tag % 3)), "tag {tag}");
    }
    drop(owners);
    disk.finish(); // no assertion failed: that would be an event
}

#[test]
fn with_batches_each_thread_serves_any_tag_from_common_buffers() {
    let _alone = alone();
    if !possible() || !features().has(Transport::Batch.flags()) {
        return;
    }
    let served = Arc::new(Mutex::new(HashMap::<ThreadId, BTreeSet<u16>>::new()));
    let found = served.clone();
    let backend = Scripted::new(SIZE, move |io| {
        let mut served = found.lock().unwrap();
        served.entry(std::thread::current().id()).or_default().insert(io.request.ticket.tag);
        Ok(io.request.what.length as u32)
    });
    let lock = Pages { lock: true, ..Pages::default() };
    let batch = Spec { transport: Some(Transport::Batch), max_io: 64 << 10, buffers: lock, ..spec() };
    let disk = Disk::start(&batch, backend);
    use_every_thread(&disk);
    assert!((16 * (64 << 10)..20 * (64 << 10)).contains(&system::locked()), "{}", system::locked());
    let file = disk.open();
    eventually("a tag goes to several threads", || {
        assert!(read_with_every_tag(&file));
        let served = served.lock().unwrap();
        (0..16).any(|tag| served.values().filter(|tags| tags.contains(&tag)).count() > 1)
    });
    drop(file);
    disk.finish();
    assert_eq!(system::locked(), 0, "the buffers went with the last thread");
}

#[test]
fn it_goes_from_server_to_server_under_load_and_stops_under_it() {
    let _alone = alone();
    if possible() {
        specs().for_each(goes_from_server_to_server);
    }
}

fn goes_from_server_to_server(spec: Spec) {
    let bound = Bound::standard();
    let backend: Arc<dyn Backend> = Arc::new(Memory::new(SIZE).unwrap());
    let made = Spec { queues: 2, recovery: Some(Recovery::Reissue), ..spec.clone() };
    let disk = Disk::share(&made, backend.clone());
    let id = disk.device().id();
    let writer = Beside::writer(&disk.path());
    eventually("the writer has the disk open", || !registry::users(id).is_empty());
    for _ in 0..5 {
        disk.device().quiesce(&bound).unwrap();
        disk.device().recover(&bound).unwrap();
    }
    // Others, and another number of threads.
    disk.device().quiesce(&bound).unwrap();
    disk.device().release().unwrap();
    let events = Events::default();
    let other = |threads_per_queue| {
        let device = Device::adopt(id, backend.clone(), &bound, events.listener()).unwrap();
        let device = device.served_as(&Spec { threads_per_queue, ..spec.clone() }).unwrap();
        device.recover(&bound).unwrap();
        device
    };
    for threads in [1, 2, 5] {
        let device = other(threads);
        assert_eq!(device.counters().len(), device.counters_by_queue().len() * threads as usize);
        device.quiesce(&bound).unwrap();
        device.release().unwrap();
    }
    let device = other(4);
    writer.end("the writer"); // at the end of the disk
    let reader = Beside::reader(&format!("/dev/ublkb{id}"));
    eventually("the reader has the disk open", || !registry::users(id).is_empty());
    device.delete(true, &bound).unwrap();
    reader.end("the reader");
    assert_eq!(events.all(), []);
    assert_eq!(disk.events().all(), []);
}

/// A disk whose thread dies of a request for its second mebibyte, if it is to.
struct Mortal(AtomicBool);

impl Backend for Mortal {
    fn properties(&self) -> Properties {
        Properties::new(SIZE)
    }
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        Ok(Box::new(MortalEngine(self)))
    }
}

struct MortalEngine(Arc<Mortal>);

impl Engine for MortalEngine {
    fn start(&mut self, _io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.offset == MIB && self.0.0.load(SeqCst) {
            std::panic::panic_any(PanicsAgain);
        }
        Step::Done(Ok(piece.length as u32))
    }
}

#[test]
fn a_thread_that_dies_takes_the_device_down_which_can_be_served_again() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let bound = Bound::standard();
    let specs = specs()
        .flat_map(|spec| [None, Some(Recovery::Reissue)].map(|recovery| Spec { recovery, ..spec.clone() }));
    for spec in specs {
        let recovery = spec.recovery;
        let mortal = Arc::new(Mortal(AtomicBool::new(true)));
        let disk = Disk::share(&spec, mortal.clone());
        let file = disk.open();
        // One of them is for what kills.
        let client = std::thread::spawn(move || read_with_every_tag(&file));
        let why = disk.events().exit();
        assert!(why.contains("queue 0 failed"), "{why}");
        mortal.0.store(false, SeqCst);
        if recovery.is_some() {
            disk.device().recover(&bound).unwrap();
            assert!(within("the client", || client.join().unwrap()), "all was sent again");
        } else {
            assert!(!within("the client", || client.join().unwrap()), "errors");
            disk.device().start(&bound).unwrap();
        }
        use_every_thread(&disk);
        disk.device().delete(true, &bound).unwrap();
    }
}

#[test]
fn combinations_that_are_impossible_are_refused() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let bound = Bound::standard();
    let refused = |spec: &Spec| {
        let made = Device::create(spec, Arc::new(Null::new(SIZE)), &bound, Arc::new(|_| {}));
        made.err().expect("refused")
    };
    let before = registry::list(&bound).unwrap().len();
    assert_eq!(refused(&Spec { threads: Threads::Shared, ..spec() }).kind, ErrorKind::Unsupported);
    assert_eq!(refused(&Spec { threads_per_queue: 17, ..spec() }).kind, ErrorKind::Invalid);
    assert_eq!(registry::list(&bound).unwrap().len(), before);
}
