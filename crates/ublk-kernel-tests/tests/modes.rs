//! Every backend in every way that it and the driver can be made to work together: nothing is left out silently.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use ublk_core::Mapping;
use ublk_core::backend::{
    Backend, Engine, File, Io, LogMemory, Memory, MemoryFile, Null, Piece, Properties, Recorder, Site, Step,
};
use ublk_core::claim::Place;
use ublk_core::features::Features;
use ublk_core::queue::{Completer, CopyMode, Event, Mode, Op, Transport, Wait};
use ublk_core::registry;
use ublk_core::spec::Recovery;
use ublk_core::testing::Control;
use ublk_core::testing::{EngineLoop, Owner};
use ublk_core::{Bound, Device, ErrorKind, Result, Spec};
use ublk_kernel_tests::system::{Loop, Mounted, sparse};
use ublk_kernel_tests::*;

const SIZE: u64 = 16 << 20;

fn modes() -> impl Iterator<Item = Mode> {
    let of = |transport| CopyMode::ALL.map(|copy| Mode { transport, copy });
    Transport::ALL.into_iter().flat_map(of)
}

fn features() -> Features {
    Control::open().unwrap().features(&Bound::standard()).unwrap()
}

fn spec(mode: Mode) -> Spec {
    Spec { queues: 2, depth: 16, transport: Some(mode.transport), copy: Some(mode.copy), ..Spec::default() }
}

/// Whether the mode is possible; where it is not, that is what the creation says.
fn possible(spec: &Spec, mode: Mode, backend: &Arc<dyn Backend>) -> bool {
    let able = backend.copy_modes().contains(&mode.copy) && features().has(mode.flags());
    if !able {
        let refused = Device::create(spec, backend.clone(), &Bound::standard(), Arc::new(|_| {}));
        assert_eq!(refused.err().map(|error| error.kind), Some(ErrorKind::Unsupported), "{mode:?}");
    }
    able
}

fn recorder() -> Recorder {
    let (base, log) = (Memory::new(SIZE).unwrap(), LogMemory::new(4 * SIZE).unwrap());
    Recorder::new(Arc::new(base), Arc::new(log), 512).unwrap()
}

fn file(path: &Path, direct: bool) -> Arc<dyn Backend> {
    Arc::new(File::open(path, false, direct).unwrap())
}

/// What is discarded or zeroed reads as zeroes, and nothing else does.
fn clear(disk: &Disk) {
    let file = disk.open();
    let length = 64 << 10;
    for clear in [block::discard, block::zero_out] {
        file.write_all_at(&Aligned::stamped(3 * length, 0), 0).unwrap();
        clear(&file, length as u64, length as u64).unwrap();
        let mut found = Aligned::new(3 * length);
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(first_wrong(&found[..length], 0), None);
        assert!(found[length..2 * length].iter().all(|byte| *byte == 0));
        assert_eq!(first_wrong(&found[2 * length..], 2 * length as u64), None);
    }
}

#[test]
fn every_backend_keeps_its_bytes_in_every_mode() {
    let _alone = alone();
    let mounted = Mounted::ext4(64 << 20);
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let paths = [mounted.join("direct"), mounted.join("buffered"), shm.path().join("file")];
    paths.iter().for_each(|path| sparse(path, SIZE));
    let device = Loop::new(SIZE);
    let mut served = 0;
    for mode in modes() {
        let backends: [(&str, Arc<dyn Backend>); 7] = [
            ("memory", Arc::new(Memory::new(SIZE).unwrap())),
            ("recorded in memory", Arc::new(recorder())),
            ("shared memory", Arc::new(MemoryFile::open(&shm.path().join("disk"), SIZE).unwrap())),
            ("direct file on ext4", file(&paths[0], true)),
            ("file on ext4", file(&paths[1], false)),
            ("file in memory", file(&paths[2], false)),
            ("block device", file(device.path(), true)),
        ];
        for (name, backend) in backends {
            let spec = spec(mode);
            if !possible(&spec, mode, &backend) {
                continue;
            }
            eprintln!("{name}: transport {}, copy {}", mode.transport, mode.copy);
            let clears = backend.properties().discard.is_some();
            let disk = Disk::share(&spec, backend);
            assert_eq!(disk.device().choice().mode, mode);
            exercise(&disk);
            if clears {
                clear(&disk);
            }
            disk.finish();
            served += 1;
        }
    }
    // Copying is possible everywhere; the rest is the kernel's matter.
    let count = |flags| if features().has(flags) { 1 } else { 0 };
    let ways = 7 + 2 * count(CopyMode::User.flags()) + 4 * count(CopyMode::Zero.flags());
    assert_eq!(served, ways * (1 + count(Transport::Batch.flags())));
}

#[test]
fn a_null_disk_reads_as_zeroes_in_every_mode() {
    let _alone = alone();
    for mode in modes() {
        let backend: Arc<dyn Backend> = Arc::new(Null::new(SIZE));
        if !possible(&spec(mode), mode, &backend) {
            continue;
        }
        let disk = Disk::share(&spec(mode), backend);
        let file = disk.open();
        file.write_all_at(&Aligned::filled(64 << 10, 0xa5), 0).unwrap();
        for _ in 0..32 {
            let mut found = Aligned::filled(64 << 10, 1);
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found.iter().all(|byte| *byte == 0), "{mode:?}");
        }
        drop(file);
        disk.finish();
    }
}

#[test]
fn a_disk_in_any_mode_goes_from_server_to_server_under_load_and_stops_under_it() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("file");
    sparse(&path, SIZE);
    let bound = Bound::standard();
    for mode in modes() {
        let backends: [Arc<dyn Backend>; 2] = [Arc::new(Memory::new(SIZE).unwrap()), file(&path, false)];
        for backend in backends {
            let spec = Spec { recovery: Some(Recovery::Reissue), ..spec(mode) };
            if !possible(&spec, mode, &backend) {
                continue;
            }
            let disk = Disk::share(&spec, backend);
            let id = disk.device().id();
            if features().has(ublk_core::testing::abi::sys::UBLK_F_QUIESCE.into()) {
                let writer = Beside::writer(&disk.path());
                eventually("the writer has the disk open", || !registry::users(id).is_empty());
                for _ in 0..5 {
                    disk.device().quiesce(&bound).unwrap();
                    disk.device().recover(&bound).unwrap();
                }
                // dd fails when it comes to the end of the disk, and not before.
                writer.end("the writer");
            }
            let reader = Beside::reader(&disk.path());
            eventually("the reader has the disk open", || !registry::users(id).is_empty());
            disk.finish();
            reader.end("the reader");
        }
    }
}

/// Serves a device's only queue on a thread of its own, and lets the driver fail to register pages.
struct ByHand;

impl Owner for ByHand {
    fn given_up(&self) -> bool {
        false
    }
    fn failed(&self, message: String) {
        panic!("{message}");
    }
}

#[test]
fn pages_that_the_driver_cannot_register_are_registered_by_the_server() {
    let _alone = alone();
    let mounted = Mounted::ext4(64 << 20);
    let path = mounted.join("file");
    sparse(&path, SIZE);
    for transport in Transport::ALL {
        let mode = Mode { transport, copy: CopyMode::Zero };
        let backend = file(&path, true);
        let spec = Spec { queues: 1, ..spec(mode) };
        if !possible(&spec, mode, &backend) {
            continue;
        }
        let device = Device::create(&spec, backend.clone(), &Bound::standard(), Arc::new(|_| {})).unwrap();
        let by_hand = Arc::new(AtomicU64::new(0));
        let mut thread = None;
        let counted = by_hand.clone();
        let serve = |mut pending: Vec<ublk_core::device::PendingQueue>| {
            let pending = pending.remove(0).only_by_hand();
            thread = Some(std::thread::spawn(move || {
                let completer = Completer::new(pending.waker());
                let mut site = Site::new(16, 1 << 20, false, completer.clone(), pending.reporter());
                let mut serving = EngineLoop::new(backend.engine(&mut site).unwrap(), completer);
                let mut served = pending.take(site.needs()).unwrap();
                loop {
                    served.turn(Wait::Forever).unwrap();
                    let mut at = 0;
                    while let Some(event) = served.event(at) {
                        at += 1;
                        if let Event::Request(ticket) = event {
                            let what = served.request(ticket).what;
                            let data = matches!(what.op, Op::Read | Op::Write);
                            assert_eq!(what.by_hand, data, "{what:?}");
                            counted.fetch_add(u64::from(what.by_hand), Ordering::SeqCst);
                        }
                    }
                    if serving.work(&mut served, &ByHand).unwrap().is_some() {
                        return;
                    }
                }
            }));
            Ok(())
        };
        device.start_with(&Bound::standard(), serve).unwrap();
        let disk = Disk::of(device);
        exercise(&disk);
        disk.finish();
        thread.unwrap().join().unwrap();
        assert!(by_hand.load(Ordering::SeqCst) > 10);
    }
}

/// A disk whose upper half is memory that nobody may touch.
struct Torn {
    good: Mapping,
    bad: Mapping,
}

impl Backend for Torn {
    fn properties(&self) -> Properties {
        Properties::new(SIZE)
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        vec![CopyMode::User]
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(TornEngine(self)))
    }
}

struct TornEngine(Arc<Torn>);

impl Engine for TornEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let (offset, half) = (piece.offset as usize, self.0.good.length());
        let address = if offset < half { self.0.good.at(offset) } else { self.0.bad.at(offset - half) };
        // SAFETY: the mappings live as long as the disk; the kernel says EFAULT where it may not go.
        let moved = unsafe { io.move_memory(&piece, 0, address, piece.length as usize) };
        Step::Done(moved.map(|()| piece.length as u32))
    }
}

#[test]
fn data_that_cannot_be_moved_costs_its_request_and_no_other() {
    let _alone = alone();
    for transport in Transport::ALL {
        let mode = Mode { transport, copy: CopyMode::User };
        let half = SIZE as usize / 2;
        let bad = Mapping::anonymous(half).unwrap();
        // SAFETY: nobody has a reference to it, and only the kernel will look at it.
        assert_eq!(unsafe { libc::mprotect(bad.base().as_ptr().cast(), half, libc::PROT_NONE) }, 0);
        let torn: Arc<dyn Backend> = Arc::new(Torn { good: Mapping::anonymous(half).unwrap(), bad });
        let spec = Spec { queues: 1, partition_scan: false, ..spec(mode) };
        if !features().has(mode.flags()) || !possible(&spec, mode, &torn) {
            continue;
        }
        let disk = Disk::share(&spec, torn);
        let file = disk.open();
        for write in [true, false] {
            let make = |at: u64| if write { Transfer::write(at, 8192) } else { Transfer::read(at, 8192) };
            // Good and bad ones in turn, in one batch.
            let mut transfers: Vec<_> = (0..16).map(|at| make(at % 2 * (SIZE / 2) + at / 2 * 8192)).collect();
            for (at, done) in at_once(&file, &mut transfers).into_iter().enumerate() {
                assert_eq!(done, if at % 2 == 0 { 8192 } else { -libc::EIO }, "{transport} {write} {at}");
            }
            let good = transfers.iter().step_by(2);
            good.for_each(|good| assert_eq!(first_wrong(&good.data, good.offset), None));
        }
        drop(file);
        disk.finish();
    }
}
