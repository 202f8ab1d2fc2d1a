//! What goes wrong stays where it went wrong: backends that fail, panic or do half, disks stopped under load.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use ublk_core::backend::{
    Backend, Completion, Engine, Io, Memory, Null, Piece, Properties, Site, Slot, Step,
};
use ublk_core::claim::Place;
use ublk_core::queue::{Op, Outcome};
use ublk_core::{Bound, Device, Error, ErrorKind, Event, Spec, registry};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;

fn short(milliseconds: u64) -> Bound {
    Bound { timeout: Duration::from_millis(milliseconds), ..Bound::standard() }
}

fn done(io: &Io<'_>) -> Outcome {
    Ok(io.request.what.length as u32)
}

/// What a read of the disk's second mebibyte ends with; the kernel itself only looks at the first.
fn read(disk: &Disk) -> std::io::Result<usize> {
    disk.open().read_at(&mut Aligned::new(4096), MIB)
}

fn errno_of_read(disk: &Disk) -> i32 {
    read(disk).unwrap_err().raw_os_error().unwrap()
}

#[test]
fn a_panic_costs_one_request_and_is_told() {
    let backend = Scripted::new(16 * MIB, |io| match (io.request.what.op, io.request.what.offset) {
        (Op::Read, MIB) => panic!("the third cylinder is on fire"),
        _ => done(io),
    });
    let disk = Disk::start(&Spec { depth: 4, ..Spec::default() }, backend);
    for _ in 0..20 {
        assert_eq!(errno_of_read(&disk), libc::EIO);
        disk.open().write_all_at(&Aligned::new(4096), MIB).unwrap();
    }
    let events = disk.events().all();
    assert_eq!(events.len(), 20);
    for event in events {
        let Event::Error { queue: Some(0), message } = event else { panic!("{event:?}") };
        assert!(message.contains("the third cylinder is on fire"), "{message}");
        assert!(message.contains("Read") && message.contains("1048576"), "{message}");
    }
    disk.device().delete(true, &Bound::standard()).unwrap();
}

/// Starts an operation in the ring, and then fails as it is told.
struct Leaving {
    gate: Arc<Gate>,
    how: fn(&mut Io<'_>) -> Step,
}

impl Backend for Leaving {
    fn properties(&self) -> Properties {
        Properties::new(16 * MIB)
    }
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        let slot = self.gate.slot(site);
        Ok(Box::new(LeavingEngine(self, slot)))
    }
}

struct LeavingEngine(Arc<Leaving>, Slot);

impl Engine for LeavingEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.offset != MIB {
            return Step::Done(done(io));
        }
        self.0.gate.wait(self.1, io);
        (self.0.how)(io)
    }
    fn resume(&mut self, _io: &mut Io<'_>, _completion: Completion) -> Step {
        Step::Done(Ok(4096))
    }
}

#[test]
fn a_request_that_failed_with_an_operation_in_the_ring_fails_when_that_is_over() {
    let panics: fn(&mut Io<'_>) -> Step = |_| panic!("after the operation was started");
    let fails: fn(&mut Io<'_>) -> Step = |io| {
        io.report("after the operation was started");
        Step::Done(Err(libc::EIO))
    };
    let succeeds: fn(&mut Io<'_>) -> Step = |_| Step::Done(Ok(4096));
    for (how, why) in [
        (panics, "after the operation was started"),
        (fails, "after the operation was started"),
        (succeeds, "answered Read of 4096 bytes at 1048576 while it worked on it"),
    ] {
        let gate = Gate::new();
        let disk = Disk::start(&Spec::default(), Leaving { gate: gate.clone(), how });
        let file = disk.open();
        let client = std::thread::spawn(move || file.read_at(&mut Aligned::new(4096), MIB));
        eventually("the request is there", || gate.arrived() == 1);
        gate.open(1);
        let result = within("the failed request", || client.join().unwrap());
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        let events = disk.events().all();
        let [Event::Error { queue: Some(0), message }] = &events[..] else { panic!("{events:?}") };
        assert!(message.contains(why) && message.contains("1048576"), "{message}");
        disk.device().delete(true, &Bound::standard()).unwrap();
    }
}

#[test]
fn the_backends_error_number_is_what_the_disks_user_sees() {
    let errno = Arc::new(AtomicI32::new(0));
    let backend = {
        let errno = errno.clone();
        Scripted::new(16 * MIB, move |io| match io.request.what.offset {
            MIB => Err(errno.load(SeqCst)),
            _ => done(io),
        })
    };
    let disk = Disk::start(&Spec::default(), backend);
    // The kernel's block layer knows these; anything else is an I/O error to it.
    for (from, to) in [
        (libc::ENOSPC, libc::ENOSPC),
        (libc::ETIMEDOUT, libc::ETIMEDOUT),
        (libc::EOPNOTSUPP, libc::EOPNOTSUPP),
        (libc::ENOLINK, libc::ENOLINK),
        (libc::EREMOTEIO, libc::EREMOTEIO),
        (libc::ENODATA, libc::ENODATA),
        (libc::EILSEQ, libc::EILSEQ),
        (libc::ENOMEM, libc::ENOMEM),
        (libc::EIO, libc::EIO),
        (libc::EPERM, libc::EIO),
        (libc::ENOENT, libc::EIO),
        (4095, libc::EIO),
        (1_000_000, libc::EIO),
        (0, libc::EIO),
        (-libc::ENOSPC, libc::EIO),
        (i32::MIN, libc::EIO),
    ] {
        errno.store(from, SeqCst);
        assert_eq!(errno_of_read(&disk), to, "errno {from}");
    }
    assert_eq!(disk.device().counters()[0].of(Op::Read).errors.get(), 16);
    disk.finish();
}

#[test]
fn what_a_short_read_left_out_is_asked_for_again() {
    let requests = Arc::new(AtomicU32::new(0));
    let backend = {
        let requests = requests.clone();
        Scripted::new(16 * MIB, move |io| {
            let what = io.request.what;
            if what.op == Op::Read {
                stamp(data(io).unwrap(), what.offset);
            }
            requests.fetch_add(u32::from(what.offset >= MIB), SeqCst);
            // A third of it and a bit, but not nothing; the bit has no use.
            Ok((what.length as u32 / 3).max(512))
        })
    };
    let disk = Disk::start(&Spec::default(), backend);
    let file = disk.open();
    let mut reads: Vec<_> = (1..9).map(|at| Transfer::read(at * MIB, 64 << 10)).collect();
    assert!(at_once(&file, &mut reads).iter().all(|done| *done == 64 << 10));
    assert!(reads.iter().all(|read| first_wrong(&read.data, read.offset).is_none()));
    assert!(requests.load(SeqCst) > 8 * 3, "sent again");
    drop(file);
    disk.finish();
}

/// The driver takes any answer to a write for the whole of it: what was left out would be lost.
#[test]
fn a_short_write_is_an_error() {
    let backend = Scripted::new(16 * MIB, |io| match (io.request.what.op, io.request.what.offset) {
        (Op::Write, MIB) => Ok(io.request.what.length as u32 - 512),
        _ => done(io),
    });
    let disk = Disk::start(&Spec::default(), backend);
    let file = disk.open();
    let error = file.write_at(&Aligned::new(64 << 10), MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    file.write_all_at(&Aligned::new(64 << 10), 2 * MIB).unwrap();
    drop(file);
    disk.finish();
}

#[test]
fn an_answer_of_nothing_or_of_too_much_is_an_error() {
    let answer = Arc::new(AtomicU32::new(0));
    let backend = {
        let answer = answer.clone();
        Scripted::new(16 * MIB, move |io| match io.request.what.offset {
            MIB => Ok(answer.load(SeqCst)),
            _ => done(io),
        })
    };
    let disk = Disk::start(&Spec::default(), backend);
    for wrong in [0, 511, 4097, 8192, u32::MAX] {
        answer.store(wrong, SeqCst);
        assert_eq!(errno_of_read(&disk), libc::EIO, "an answer of {wrong} bytes");
        let file = disk.open();
        let written = file.write_at(&Aligned::new(4096), MIB).unwrap_err();
        assert_eq!(written.raw_os_error(), Some(libc::EIO), "an answer of {wrong} bytes");
    }
    answer.store(4096, SeqCst);
    assert_eq!(read(&disk).unwrap(), 4096);
    disk.finish();
}

/// A backend whose engine cannot be made at first.
struct Late {
    ready: AtomicBool,
    null: Arc<Null>,
}

impl Backend for Late {
    fn properties(&self) -> Properties {
        self.null.properties()
    }
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        if self.ready.load(SeqCst) {
            return self.null.clone().engine(site);
        }
        Err(Error::new(ErrorKind::Backend, "the medium spins up"))
    }
}

#[test]
fn a_device_whose_backend_is_not_ready_fails_to_start_and_can_be_started_later() {
    let late = Arc::new(Late { ready: AtomicBool::new(false), null: Arc::new(Null::new(MIB)) });
    let events = Events::default();
    let spec = Spec { queues: 2, ..Spec::default() };
    let device = Device::create(&spec, late.clone(), &Bound::standard(), events.listener()).unwrap();
    for _ in 0..3 {
        let error = device.start(&short(5000)).unwrap_err();
        assert_eq!((error.kind, &*error.message), (ErrorKind::Backend, "the medium spins up"));
    }
    assert_eq!(registry::open(device.id(), &Bound::standard()).unwrap().state, registry::State::Idle);
    late.ready.store(true, SeqCst);
    device.start(&Bound::standard()).unwrap();
    device.delete(true, &Bound::standard()).unwrap();
    assert_eq!(events.all(), []);
}

#[test]
fn a_listener_that_panics_costs_nobody_anything() {
    let listener = Arc::new(|event| panic!("a listener that panics at {event:?}"));
    let backend = Scripted::new(16 * MIB, |io| match io.request.what.offset {
        MIB => panic!("a backend that panics"),
        _ => done(io),
    });
    let device = Device::create(&Spec::default(), Arc::new(backend), &Bound::standard(), listener).unwrap();
    device.start(&Bound::standard()).unwrap();
    let file = std::fs::File::open(format!("/dev/ublkb{}", device.id())).unwrap();
    for _ in 0..3 {
        assert_eq!(file.read_at(&mut [0; 512], MIB).unwrap_err().raw_os_error(), Some(libc::EIO));
        file.read_exact_at(&mut [0; 512], 2 * MIB).unwrap();
    }
    drop(file);
    device.delete(true, &Bound::standard()).unwrap();
}

/// What nobody expects, such as a panic while a panic is cleaned up, costs the queue.
#[test]
fn a_queue_that_dies_takes_its_device_down_and_leaves_nobody_hanging() {
    for queues in [1, 2] {
        let gate = Gate::new();
        let how = |_: &mut Io<'_>| -> Step { std::panic::panic_any(PanicsAgain) };
        // A number of its own: the ring of a queue that died keeps its device until the kernel has ended it.
        let spec = Spec { queues, id: Some(903 + queues), ..Spec::default() };
        let disk = Disk::start(&spec, Leaving { gate: gate.clone(), how });
        let id = disk.device().id();
        let client = Beside::start(std::process::Command::new("dd").args([
            &format!("if={}", disk.path()),
            "of=/dev/null",
            "bs=4096",
            "skip=256",
            "count=1",
            "iflag=direct",
            "status=none",
        ]));
        assert!(!client.end("a read from a queue that died").success());
        let why = disk.events().exit();
        assert!(why.contains("failed"), "{why}");
        let told = disk.events().all();
        assert!(
            matches!(&told[..], [Event::Error { .. }, Event::Error { message, .. }, Event::Exit { .. }] if *message == why)
        );
        eventually("the disk is gone", || !std::path::Path::new(&disk.path()).exists());
        assert_eq!(registry::open(id, &Bound::standard()).unwrap().state, registry::State::Idle);
        // It can be started again.
        disk.device().start(&Bound::standard()).unwrap();
        disk.open().read_exact_at(&mut Aligned::new(4096), 2 * MIB).unwrap();
        disk.device().delete(true, &Bound::standard()).unwrap();
    }
}

#[test]
fn stopping_and_deleting_under_load_leaves_nobody_hanging() {
    for delete in [false, true] {
        let disk = Disk::start(&Spec { queues: 2, depth: 16, ..Spec::default() }, Null::new(1 << 40));
        let mut clients: Vec<_> =
            (0..2).flat_map(|_| [Beside::reader(&disk.path()), Beside::writer(&disk.path())]).collect();
        let served = |op| disk.device().counters().iter().map(|queue| queue.of(op).ops.get()).sum::<u64>();
        eventually("there is load", || served(Op::Read) > 100 && served(Op::Write) > 100);
        assert!(clients.iter_mut().all(Beside::runs));
        if !delete {
            disk.device().stop(true, &Bound::standard()).unwrap();
            assert!(!std::path::Path::new(&disk.path()).exists());
        } else {
            disk.device().delete(true, &Bound::standard()).unwrap();
        }
        for client in clients {
            client.end("a client of a stopped disk");
        }
        disk.finish();
    }
}

#[test]
fn a_stop_that_waits_for_a_request_ends_at_its_bound_and_can_be_tried_again() {
    let gate = Gate::new();
    let checking = Checking::gated(16 * MIB, 512, Some(gate.clone()));
    let disk = Disk::share(&Spec::default(), checking).settled();
    let file = disk.open();
    let client = std::thread::spawn(move || file.read_at(&mut Aligned::new(512), MIB));
    eventually("the request is at the server", || gate.arrived() == 1);
    let error = disk.device().stop(true, &short(100)).unwrap_err();
    assert_eq!((error.kind, error.command), (ErrorKind::Timeout, Some("STOP_DEV")));
    assert!(!client.is_finished());
    gate.open(1);
    // Answered, as the disk was not gone yet.
    assert_eq!(within("the request", || client.join().unwrap()).unwrap(), 512);
    disk.device().stop(true, &Bound::standard()).unwrap();
    disk.device().start(&Bound::standard()).unwrap();
    // The driver goes on with the first stop, which may end the disk before the second.
    let message = format!("device {} ended: a stop that was given up took effect", disk.device().id());
    disk.finish_after(&[Event::Exit { message }]);
}

#[test]
fn a_disk_in_use_is_only_stopped_by_force() {
    let disk = Disk::start(&Spec::default(), Memory::new(16 * MIB).unwrap());
    let file = disk.open();
    for error in [
        disk.device().stop(false, &Bound::standard()).unwrap_err(),
        disk.device().delete(false, &Bound::standard()).unwrap_err(),
        registry::delete(disk.device().id(), false, &Bound::standard()).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Busy);
        assert!(error.message.contains("open by"), "{}", error.message);
    }
    file.write_all_at(&Aligned::new(4096), 0).unwrap();
    disk.device().stop(true, &Bound::standard()).unwrap();
    assert!(file.write_at(&Aligned::new(4096), 0).is_err());
    drop(file);
    disk.finish();
}

#[test]
fn a_forced_deletion_of_an_open_disk_is_complete_when_it_is_closed() {
    // An id that no other test gets while this one looks for it.
    let (id, spec) = (901, Spec { id: Some(901), ..Spec::default() });
    let disk = Disk::start(&spec, Null::new(16 * MIB));
    let file = disk.open();
    disk.device().delete(true, &Bound::standard()).unwrap();
    assert!(file.read_at(&mut Aligned::new(4096), 0).is_ok_and(|read| read == 0) || read(&disk).is_err());
    drop(file);
    eventually("the device is gone", || {
        registry::open(id, &Bound::standard()).is_err_and(|error| error.kind == ErrorKind::NotFound)
    });
    disk.finish();
}

#[test]
fn a_dropped_device_is_deleted() {
    let (id, spec) = (902, Spec { id: Some(902), ..Spec::default() });
    for started in [false, true] {
        let events = Events::default();
        let backend = Arc::new(Null::new(MIB));
        let device = Device::create(&spec, backend, &Bound::standard(), events.listener()).unwrap();
        if started {
            device.start(&Bound::standard()).unwrap();
        }
        within("dropping a device", move || drop(device));
        assert_eq!(registry::open(id, &Bound::standard()).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(events.all(), []);
    }
}
