//! A disk that outlives its server: killed with requests in flight, or quiesced. The server that is killed is this same
//! program, run once more.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use ublk_core::backend::{
    Alignment, Backend, Completion, Engine, File, Io, MemoryFile, Piece, Properties, Site, Slot, Step,
};
use ublk_core::claim::Place;
use ublk_core::queue::{CopyMode, Transport};
use ublk_core::registry::{self, State};
use ublk_core::spec::Recovery;
use ublk_core::testing::Control;
use ublk_core::testing::abi::sys::{
    UBLK_F_AUTO_BUF_REG, UBLK_F_NO_AUTO_PART_SCAN, UBLK_F_QUIESCE, UBLK_F_SAFE_STOP_DEV,
    UBLK_F_USER_RECOVERY_FAIL_IO,
};
use ublk_core::{Bound, Device, ErrorKind, Spec};
use ublk_kernel_tests::*;

// What the server is to be, in its environment: one of a disk in a file; of one that the kernel does not look at; or one
// that answers nothing.
const FILE: &str = "UBLK_TEST_FILE";
const UNREAD: &str = "UBLK_TEST_UNREAD";
const SILENT: &str = "UBLK_TEST_SILENT";
const SIZE: u64 = 16 << 20;

fn memory(file: &str) -> Arc<dyn Backend> {
    Arc::new(MemoryFile::open(&PathBuf::from(file), SIZE).unwrap())
}

fn spec(recovery: Recovery) -> Spec {
    Spec { queues: 2, recovery: Some(recovery), ..Spec::default() }
}

fn quiesces() -> bool {
    can(UBLK_F_QUIESCE)
}

fn can(flag: impl Into<u64>) -> bool {
    Control::open().unwrap().features(&Bound::standard()).unwrap().has(flag.into())
}

/// Not a test: the server. Prints its device's number and serves until it is killed.
#[test]
fn the_server() {
    let spec = spec(Recovery::Reissue);
    let disk = if let Ok(file) = std::env::var(FILE) {
        Disk::share(&spec, memory(&file))
    } else if let Ok(file) = std::env::var(UNREAD) {
        Disk::share(&Spec { partition_scan: !can(UBLK_F_NO_AUTO_PART_SCAN), ..spec }, memory(&file))
    } else if std::env::var(SILENT).is_ok() {
        Disk::start(&spec, Scripted::new(SIZE, |_| sleep()))
    } else {
        return;
    };
    println!("\ndevice {}", disk.device().id());
    sleep();
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}

fn start_server(file: &str) -> (Beside, u32) {
    Beside::server(FILE, file)
}

#[test]
fn clients_of_a_killed_server_go_on_when_another_takes_over() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = dir.path().join("disk").to_str().unwrap().to_owned();
    let (mut server, id) = start_server(&file);
    let path = format!("/dev/ublkb{id}");
    let bound = Bound::standard();
    let events = Events::default();
    let served = Device::adopt(id, memory(&file), &bound, events.listener()).err().unwrap();
    assert_eq!(served.kind, ErrorKind::Busy);
    let writer = Beside::writer(&path);
    eventually("the writer has the disk open", || !registry::users(id).is_empty());
    server.child().kill().unwrap();
    let device = Device::adopt(id, memory(&file), &bound, events.listener()).unwrap();
    assert_eq!(registry::open(id, &bound).unwrap().state, State::Quiesced);
    device.recover(&bound).unwrap();
    assert_eq!(registry::open(id, &bound).unwrap().state, State::Live);
    // dd fails when it comes to the end of the disk, and not before.
    writer.end("the writer");
    let written = device.counters().iter().map(|queue| queue.of(ublk_core::queue::Op::Write).bytes.get());
    assert!(written.sum::<u64>() > 0, "the new server saw the rest");
    device.delete(false, &bound).unwrap();
    assert_eq!(events.all(), []);
}

#[test]
fn a_device_that_is_not_recovered_stays_for_others_when_it_is_dropped() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = dir.path().join("disk").to_str().unwrap().to_owned();
    let (mut server, id) = Beside::server(UNREAD, &file);
    server.child().kill().unwrap();
    server.end("the server");
    let bound = Bound::standard();
    let events = Events::default();
    drop(Device::adopt(id, memory(&file), &bound, events.listener()).unwrap());
    assert_eq!(registry::open(id, &bound).unwrap().state, State::Quiesced);
    let device = Device::adopt(id, memory(&file), &bound, events.listener()).unwrap();
    device.release().unwrap();
    assert_eq!(device.recover(&bound).unwrap_err().kind, ErrorKind::Closed);
    drop(device);
    assert_eq!(registry::open(id, &bound).unwrap().state, State::Quiesced);
    registry::delete(id, false, &bound).unwrap();
}

#[test]
fn a_device_is_not_deleted_under_requests_that_wait_for_a_server() {
    let _alone = alone();
    if !can(UBLK_F_SAFE_STOP_DEV) {
        return; // nor does it read the partition table on its own: to start such a disk never ends
    }
    let bound = Bound::standard();
    let (mut server, id) = Beside::server(SILENT, "1");
    let stat = format!("/sys/block/ublkb{id}/stat");
    let waiting = || system::read(&stat).split_whitespace().nth(8).map(str::to_owned);
    eventually("the kernel reads the partition table", || waiting().as_deref() != Some("0"));
    server.child().kill().unwrap();
    server.end("the server");
    eventually("it is quiesced", || registry::open(id, &bound).unwrap().state == State::Quiesced);
    let error = within("the deletion", move || registry::delete(id, false, &Bound::standard())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.message.contains("requests are in flight"), "{error}");
    within("the deletion by force", move || registry::delete(id, true, &Bound::standard())).unwrap();
}

#[test]
fn a_quiesced_device_fails_nothing_and_goes_on_in_the_same_process() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = dir.path().join("disk").to_str().unwrap().to_owned();
    let bound = Bound::standard();
    for (transport, recovery) in ways() {
        let disk = Disk::share(&Spec { transport: Some(transport), ..spec(recovery) }, memory(&file));
        if !quiesces() || (transport, recovery) == (Transport::Batch, Recovery::Requeue) {
            assert_eq!(disk.device().quiesce(&bound).unwrap_err().kind, ErrorKind::Unsupported);
            disk.finish();
            continue;
        }
        let reader = Beside::reader(&disk.path());
        eventually("the reader has the disk open", || !registry::users(disk.device().id()).is_empty());
        for _ in 0..5 {
            disk.device().quiesce(&bound).unwrap();
            assert_eq!(registry::open(disk.device().id(), &bound).unwrap().state, State::Quiesced);
            disk.device().recover(&bound).unwrap();
        }
        assert!(reader.end("the reader").success());
        disk.finish();
    }
    let disk = Disk::share(&Spec::default(), memory(&file));
    assert_eq!(disk.device().quiesce(&bound).unwrap_err().kind, ErrorKind::Unsupported);
    disk.finish();
}

/// The kernel's transports, with each recovery mode that keeps requests.
fn ways() -> impl Iterator<Item = (Transport, Recovery)> {
    let transports =
        Transport::ALL.into_iter().filter(|transport| transport.flags() == 0 || can(transport.flags()));
    transports
        .flat_map(|transport| [Recovery::Reissue, Recovery::Requeue].map(|recovery| (transport, recovery)))
}

/// Answers reads in the second half of the disk when the gate opens, all others at once.
struct Slow(Arc<Gate>);

impl Backend for Slow {
    fn properties(&self) -> Properties {
        Properties::new(SIZE)
    }
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        Ok(Box::new(SlowEngine(self.0.slot(site), self.0.clone())))
    }
}

struct SlowEngine(Slot, Arc<Gate>);

impl Engine for SlowEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.offset == SIZE / 2 {
            return self.1.wait(self.0, io);
        }
        Step::Done(Ok(piece.length as u32))
    }
    fn resume(&mut self, io: &mut Io<'_>, _completion: Completion) -> Step {
        Step::Done(Ok(io.request.what.length as u32))
    }
}

/// The bound is longer than the test's patience: only the request's answer can end the wait in time.
#[test]
fn quiescing_waits_for_the_requests_in_flight_and_no_longer() {
    let _alone = alone();
    if !quiesces() {
        return; // a test above checks that this is refused
    }
    for (transport, recovery) in ways() {
        if (transport, recovery) == (Transport::Batch, Recovery::Requeue) {
            continue; // refused as well
        }
        let gate = Gate::new();
        let spec = Spec { transport: Some(transport), queues: 1, ..spec(recovery) };
        let disk = Arc::new(Disk::share(&spec, Arc::new(Slow(gate.clone()))));
        let file = disk.open();
        let reader =
            std::thread::spawn(move || file.read_exact_at(&mut Aligned::new(4096), SIZE / 2).unwrap());
        eventually("the request is in flight", || gate.arrived() == 1);
        let opener = std::thread::spawn({
            let (gate, disk) = (gate.clone(), disk.clone());
            move || {
                std::thread::sleep(Duration::from_millis(300)); // by then QUIESCE_DEV was sent
                assert_eq!(
                    registry::open(disk.device().id(), &Bound::standard()).unwrap().state,
                    State::Live
                );
                gate.open(1);
            }
        });
        within("to quiesce it", {
            let disk = disk.clone();
            let bound = Bound { timeout: 2 * PATIENCE, ..Bound::standard() };
            move || disk.device().quiesce(&bound).unwrap()
        });
        opener.join().unwrap();
        reader.join().unwrap();
        disk.device().recover(&Bound::standard()).unwrap();
        Arc::into_inner(disk).unwrap().finish();
    }
}

/// A file on a device that needs aligned memory.
struct Fussy(Arc<File>);

impl Backend for Fussy {
    fn properties(&self) -> Properties {
        Properties { alignment: Alignment { start: 4096, gap: 4096 }, ..self.0.properties() }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.0.copy_modes()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.0.places()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        self.0.clone().engine(site)
    }
}

/// Drivers before 7.0 take no new server after a stop: there the device is added anew.
#[test]
fn a_device_that_was_taken_over_keeps_its_alignment_when_it_is_started_again() {
    let _alone = alone();
    if !can(UBLK_F_AUTO_BUF_REG) || !quiesces() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("disk");
    system::sparse(&path, SIZE);
    let (bound, events) = (Bound::standard(), Events::default());
    let fussy = || Arc::new(Fussy(Arc::new(File::open(&path, false, false).unwrap())));
    let spec = Spec { copy: Some(CopyMode::Zero), recovery: Some(Recovery::Reissue), ..Spec::default() };
    let first = Device::create(&spec, fussy(), &bound, events.listener()).unwrap();
    first.start(&bound).unwrap();
    let id = first.id();
    let limits = || {
        ["dma_alignment", "virt_boundary_mask"]
            .map(|name| system::read(&format!("/sys/block/ublkb{id}/queue/{name}")))
    };
    assert_eq!(limits(), ["4095", "4095"]);
    first.quiesce(&bound).unwrap();
    first.release().unwrap();
    let second = Device::adopt(id, fussy(), &bound, events.listener()).unwrap();
    second.recover(&bound).unwrap();
    assert_eq!(limits(), ["4095", "4095"]);
    second.stop(true, &bound).unwrap();
    second.start(&bound).unwrap();
    assert_eq!(limits(), ["4095", "4095"], "after a start anew");
    second.delete(true, &bound).unwrap();
}

#[test]
fn a_quiesced_device_can_be_deleted() {
    let _alone = alone();
    if !quiesces() {
        return; // the test above has seen that refused
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = dir.path().join("disk").to_str().unwrap().to_owned();
    let disk = Disk::share(&spec(Recovery::Reissue), memory(&file));
    disk.device().quiesce(&Bound::standard()).unwrap();
    disk.finish();
}

/// In flight is a request that is not answered in time: it fails as it does when the server is killed.
#[test]
fn a_device_that_cannot_be_quiesced_is_left_to_the_next_server_all_the_same() {
    let _alone = alone();
    let transports = ways().map(|(transport, _)| (transport, Recovery::Fail));
    let refused = ways().filter(|way| *way == (Transport::Batch, Recovery::Requeue));
    if !can(UBLK_F_USER_RECOVERY_FAIL_IO) {
        let events = Events::default();
        let made = Device::create(
            &spec(Recovery::Fail),
            Arc::new(Slow(Gate::new())),
            &Bound::standard(),
            events.listener(),
        );
        assert_eq!(made.err().unwrap().kind, ErrorKind::Unsupported);
        return; // nor has it batches, or an orderly way to leave
    }
    for (transport, recovery) in transports.step_by(2).chain(refused) {
        let (gate, bound, events) = (Gate::new(), Bound::standard(), Events::default());
        let spec = Spec { transport: Some(transport), queues: 1, ..spec(recovery) };
        let make = || Arc::new(Slow(gate.clone()));
        let first = Device::create(&spec, make(), &bound, events.listener()).unwrap();
        first.start(&bound).unwrap();
        let id = first.id();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(format!("/dev/ublkb{id}"))
            .unwrap();
        let read = {
            let file = file.try_clone().unwrap();
            std::thread::spawn(move || file.read_exact_at(&mut Aligned::new(4096), SIZE / 2))
        };
        eventually("the request is in flight", || gate.arrived() == 1);
        let waits = if recovery == Recovery::Fail { State::FailIo } else { State::Quiesced };
        let state = move || registry::open(id, &Bound::standard()).unwrap().state;
        let first = within("to leave it", move || {
            first.leave(&Bound { timeout: Duration::from_secs(1), ..Bound::standard() }).unwrap();
            first
        });
        assert_eq!(state(), waits, "{transport:?} {recovery:?}");
        assert!(read.join().unwrap().is_err());
        assert_eq!(first.recover(&bound).unwrap_err().kind, ErrorKind::Closed);
        drop(first);

        // Somebody's disk is not deleted with a server that was not told to keep it.
        let second = Device::adopt(id, make(), &bound, events.listener()).unwrap();
        second.recover(&bound).unwrap();
        drop(second);
        assert_eq!(state(), waits, "{transport:?} {recovery:?}");

        let third = Device::adopt(id, make(), &bound, events.listener()).unwrap();
        third.recover(&bound).unwrap();
        third.keep();
        file.read_exact_at(&mut Aligned::new(4096), 0).unwrap();
        drop(file);
        drop(third);
        assert_eq!(registry::open(id, &bound).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(events.all(), []);
    }
}

/// While `dies`, its queue fails at a read of the disk's middle.
struct Dying {
    dies: AtomicBool,
}

impl Backend for Dying {
    fn properties(&self) -> Properties {
        Properties::new(SIZE)
    }
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        Ok(Box::new(DyingEngine(self)))
    }
}

struct DyingEngine(Arc<Dying>);

impl Engine for DyingEngine {
    fn start(&mut self, _io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.offset == SIZE / 2 && self.0.dies.load(SeqCst) {
            std::panic::panic_any(PanicsAgain);
        }
        Step::Done(Ok(piece.length as u32))
    }
}

#[test]
fn a_device_whose_server_fails_is_left_to_the_next_server() {
    let _alone = alone();
    let fails = Transport::ALL.map(|transport| (transport, Recovery::Fail)).into_iter();
    let can_fail = |way: &(Transport, Recovery)| {
        can(UBLK_F_USER_RECOVERY_FAIL_IO) && (way.0.flags() == 0 || can(way.0.flags()))
    };
    for (transport, recovery) in ways().chain(fails.filter(can_fail)) {
        let what = format!("{transport:?} {recovery:?}");
        let (bound, events) = (Bound::standard(), Events::default());
        let backend = Arc::new(Dying { dies: AtomicBool::new(true) });
        let spec = Spec { transport: Some(transport), ..spec(recovery) };
        let first = Device::create(&spec, backend.clone(), &bound, events.listener()).unwrap();
        first.start(&bound).unwrap();
        let id = first.id();
        let state = move || registry::open(id, &Bound::standard()).unwrap().state;
        let waits = if recovery == Recovery::Fail { State::FailIo } else { State::Quiesced };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(format!("/dev/ublkb{id}"))
            .unwrap();
        let read = || {
            let file = file.try_clone().unwrap();
            std::thread::spawn(move || file.read_exact_at(&mut Aligned::new(4096), SIZE / 2))
        };

        // Its queue fails; then it is dropped.
        assert!(!first.waits().unwrap());
        let reading = read();
        let why = events.exit();
        assert!(why.contains("failed"), "{why}");
        assert!(first.waits().unwrap(), "{what}");
        drop(first);
        eventually("the driver has noticed", || state() == waits);

        // After it was released it cannot be used any more.
        let adopt = |events: &Events| {
            let device = Device::adopt(id, backend.clone(), &bound, events.listener()).unwrap();
            device.recover(&bound).unwrap();
            device.keep();
            device
        };
        let events = Events::default();
        let (second, reading) = match recovery {
            Recovery::Reissue => (adopt(&events), reading), // the same read comes again
            _ => {
                assert!(reading.join().unwrap().is_err(), "{what}");
                (adopt(&events), read())
            }
        };
        events.exit();
        second.release().unwrap();
        assert_eq!(second.recover(&bound).unwrap_err().kind, ErrorKind::Closed);
        drop(second);
        eventually("the driver has noticed", || state() == waits);

        // It serves, and its process fails.
        backend.dies.store(false, SeqCst);
        let events = Events::default();
        let third = adopt(&events);
        file.read_exact_at(&mut Aligned::new(4096), SIZE / 2).unwrap();
        assert_eq!(reading.join().unwrap().is_ok(), recovery == Recovery::Reissue, "{what}");
        third.abandon(true, &bound).unwrap();
        assert_eq!(state(), waits, "{what}");

        // Its process ends, in an orderly way.
        let fourth = adopt(&events);
        drop(file);
        fourth.abandon(false, &bound).unwrap();
        assert_eq!(registry::open(id, &bound).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(events.all(), []);
    }
}
