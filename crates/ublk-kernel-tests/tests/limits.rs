//! The smallest, the largest and the most of everything, and that nothing of it stays.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use ublk_core::backend::{Backend, Engine, Memory, Null, Place, Properties, Segments, Site};
use ublk_core::queue::Op;
use ublk_core::{Bound, Cancel, Device, ErrorKind, Spec, registry};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;

/// What a process may leak, bit by bit.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    devices: usize,
}

impl Held {
    fn now() -> Self {
        Self {
            descriptors: system::descriptors().len(),
            // Only ours: the kernel's side of a ring and other tests come and go.
            threads: system::threads().iter().filter(|name| name.starts_with("ublk")).count(),
            devices: registry::list(&Bound::standard()).unwrap().len(),
        }
    }

    fn within(&self, limit: &Self) -> bool {
        self.descriptors <= limit.descriptors
            && self.threads <= limit.threads
            && self.devices <= limit.devices
    }

    /// What is held now comes down to this.
    fn assert_all(&self, after: &str) {
        let mut now = Self::now();
        let until = Instant::now() + PATIENCE;
        while !now.within(self) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            now = Self::now();
        }
        assert!(now.within(self), "{after} left something: {now:?} instead of {self:?}");
    }
}

fn mappings() -> usize {
    system::read("/proc/self/maps").lines().count()
}

/// Devices with each of the backends, one after the other, `number` times.
fn cycle(number: usize, path: &Path) {
    let spec = Spec { queues: 2, ..Spec::default() };
    for _ in 0..number {
        let backends: [Arc<dyn Backend>; 3] = [
            Arc::new(Null::new(MIB)),
            Arc::new(Memory::new(16 * MIB).unwrap()),
            Arc::new(ublk_core::backend::File::open(path, false, false).unwrap()),
        ];
        for backend in backends {
            let disk = Disk::share(&spec, backend);
            disk.open().write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
            disk.finish();
        }
    }
}

#[test]
fn hundreds_of_devices_leave_nothing() {
    let _alone = alone();
    // The control thread stays while the test runs.
    let _control = ublk_core::testing::Control::open().unwrap();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    // Four at a time, each with a file of its own: the driver's own waiting is most of it.
    let paths: Vec<_> = (0..4).map(|lane| dir.path().join(format!("file{lane}"))).collect();
    paths.iter().for_each(|path| system::sparse(path, 16 * MIB));
    let cycles = |number| {
        std::thread::scope(|scope| {
            paths.iter().for_each(|path| drop(scope.spawn(move || cycle(number, path))));
        });
    };
    cycles(1);
    let (before, memory, mapped) = (Held::now(), system::resident(), mappings());
    cycles(16);
    before.assert_all("200 devices");
    assert!(mappings() < mapped + 50, "{} mappings instead of {mapped}", mappings());
    let grown = system::resident().saturating_sub(memory);
    assert!(grown < 2 * MIB, "{grown} bytes of memory");
}

#[test]
fn starts_that_fail_leave_nothing() {
    let _alone = alone();
    let _control = ublk_core::testing::Control::open().unwrap();
    let events = Events::default();
    let spec = Spec { queues: 2, depth: 16, ..Spec::default() };
    let device =
        Device::create(&spec, Arc::new(Null::new(MIB)), &Bound::standard(), events.listener()).unwrap();
    let fail = || {
        let bound = Bound { cancel: Cancel::default(), ..Bound::standard() };
        bound.cancel.cancel();
        assert_eq!(device.start(&bound).unwrap_err().kind, ErrorKind::Cancelled);
    };
    (0..3).for_each(|_| fail());
    let (before, mapped) = (Held::now(), mappings());
    (0..30).for_each(|_| fail());
    before.assert_all("30 cancelled starts");
    assert!(mappings() < mapped + 30, "{} mappings instead of {mapped}", mappings());
    device.start(&Bound::standard()).unwrap();
    device.delete(true, &Bound::standard()).unwrap();
    assert_eq!(events.all(), []);
}

#[test]
fn a_start_without_descriptors_left_is_an_error_and_leaves_nothing() {
    let _alone = alone();
    let _control = ublk_core::testing::Control::open().unwrap();
    let events = Events::default();
    let spec = Spec { queues: 2, ..Spec::default() };
    let device =
        Device::create(&spec, Arc::new(Null::new(MIB)), &Bound::standard(), events.listener()).unwrap();
    let before = Held::now();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let allow = |number| setrlimit(Resource::RLIMIT_NOFILE, number, hard).unwrap();
    let lowest = File::open("/dev/null").unwrap().as_raw_fd() as u64;
    // One descriptor more each time: the start gets a little further, until it succeeds. A ring's file table may not have more
    // places than there may be descriptors.
    let mut refused = 0;
    for more in 0..64 {
        allow(lowest + more);
        let started = device.start(&Bound::standard());
        allow(soft);
        match started {
            Ok(()) => break,
            Err(error) => assert_eq!(error.errno, Some(libc::EMFILE), "{error}"),
        }
        refused += 1;
        before.assert_all("a start that failed");
    }
    assert!((2..64).contains(&refused), "refused {refused} times");
    device.delete(true, &Bound::standard()).unwrap();
    assert_eq!(events.all(), []);
}

#[test]
fn sixty_four_devices_live_at_once_and_one_more_is_no_surprise() {
    let _alone = alone();
    let control = ublk_core::testing::Control::open().unwrap();
    let before = Held::now();
    let spec = Spec { depth: 4, ..Spec::default() };
    let disks: Vec<_> = (0..64)
        .map(|at| {
            let disk = Disk::start(&spec, Memory::new(MIB).unwrap());
            disk.open().write_all_at(&Aligned::filled(4096, at as u8), 4096).unwrap();
            disk
        })
        .collect();
    for (at, disk) in disks.iter().enumerate() {
        let mut data = Aligned::new(4096);
        disk.open().read_exact_at(&mut data, 4096).unwrap();
        assert!(data.iter().all(|byte| *byte == at as u8), "device {at}");
    }
    assert_eq!(registry::list(&Bound::standard()).unwrap().len(), disks.len());
    // Newer kernels hold only unprivileged users to the limit.
    let events = Events::default();
    match Device::create(&spec, Arc::new(Null::new(MIB)), &Bound::standard(), events.listener()) {
        Ok(device) => device.delete(true, &Bound::standard()).unwrap(),
        Err(error) => {
            assert_eq!((error.kind, error.errno), (ErrorKind::Limit, Some(libc::EACCES)));
            assert!(error.hint.unwrap().contains("ublks_max"));
        }
    }
    // Some at a time: each waits for the driver, not for the others.
    let disks = Mutex::new(disks);
    let next = || disks.lock().unwrap().pop();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| std::iter::from_fn(next).for_each(Disk::finish));
        }
    });
    before.assert_all("64 devices at once");
    drop(control);
}

#[test]
fn every_depth_from_one_to_the_largest_serves() {
    let _alone = alone();
    for depth in [1, 2, 3, 127, 4095, 4096] {
        let checking = Checking::new(16 * MIB, 512);
        let disk = Disk::share(&Spec { depth, max_io: 4096, ..Spec::default() }, checking.clone());
        let info = registry::open(disk.device().id(), &Bound::standard()).unwrap();
        assert_eq!(u32::from(info.depth), depth);
        let file = disk.open();
        let mut writes: Vec<_> = (0..64).map(|at| Transfer::write(at * 8192, 4096)).collect();
        assert!(at_once(&file, &mut writes).iter().all(|done| *done == 4096), "depth {depth}");
        checking.assert_right();
        drop(file);
        disk.finish();
    }
}

#[test]
fn more_queues_than_processors_are_clamped_and_all_of_them_serve() {
    let _alone = alone();
    let cpus = cpus();
    let disk = Disk::start(&Spec { queues: 4096, depth: 2, ..Spec::default() }, Null::new(MIB));
    let queues = disk.device().counters().len();
    assert!((1..=cpus.len()).contains(&queues), "{queues} queues");
    for cpu in &cpus {
        let file = disk.open();
        on_cpu(*cpu, move || file.write_all_at(&Aligned::new(4096), 0).unwrap()).join().unwrap();
    }
    if queues == cpus.len() {
        assert!(disk.device().counters().iter().all(|queue| queue.of(Op::Write).ops.get() > 0));
    }
    disk.finish();
}

#[test]
fn the_disk_has_exactly_the_shape_that_was_asked_for() {
    let _alone = alone();
    for block_size in [512, 1024, 2048, 4096] {
        let checking = Checking::new(16 * MIB, 512);
        let spec = Spec {
            block_size: Some(block_size),
            physical_block_size: Some(8192),
            max_io: 256 << 10,
            rotational: true,
            ..Spec::default()
        };
        let disk = Disk::share(&spec, checking.clone());
        let file = disk.open();
        assert_eq!((block::block_size(&file), block::size(&file)), (block_size, 16 * MIB));
        for (limit, value) in [
            ("logical_block_size", u64::from(block_size)),
            ("physical_block_size", 8192),
            ("minimum_io_size", 8192),
            ("optimal_io_size", 8192),
            ("max_hw_sectors_kb", 256),
            ("rotational", 1),
            ("discard_max_bytes", 0),
        ] {
            assert_eq!(disk.limit(limit), value, "{limit} with blocks of {block_size}");
        }
        let block = u64::from(block_size);
        for offset in [0, block, 5 * block, 16 * MIB - block] {
            file.write_all_at(&Aligned::stamped(block_size as usize, offset), offset).unwrap();
            let mut data = Aligned::new(block_size as usize);
            file.read_exact_at(&mut data, offset).unwrap();
            assert_eq!(first_wrong(&data, offset), None);
        }
        checking.assert_right();
        if block_size > 512 {
            assert!(file.read_at(&mut Aligned::new(512), 512).is_err(), "half a block");
        }
        drop(file);
        disk.finish();
    }
}

/// The same disk with other limits of segments.
struct Limited(Arc<Checking>, Segments);

impl Backend for Limited {
    fn properties(&self) -> Properties {
        Properties { segments: self.1, ..self.0.properties() }
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.0.places()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        self.0.clone().engine(site)
    }
}

#[test]
fn requests_have_no_more_and_no_larger_segments_than_the_backend_takes() {
    let _alone = alone();
    let none = Segments::default();
    let whole = 256 << 10;
    let features = registry::features(&Bound::standard()).unwrap();
    let newer = features.iter().any(|(feature, able)| feature.name == "QUIESCE" && *able); // 6.16
    for (segments, most, size, largest) in [
        (none, 65535, u64::from(u32::MAX), whole),
        (Segments { most: 4, size: 8192, ..none }, 4, 8192, 4 * 8192),
        (Segments { most: 3, boundary: 4096, ..none }, 3, u64::from(u32::MAX), 3 * 4096),
        (Segments { size: 4096, ..none }, 65535, 4096, whole),
    ] {
        let checking = Checking::new(16 * MIB, 512);
        let backend = Arc::new(Limited(checking.clone(), segments));
        if segments != none && !newer {
            let made =
                Device::create(&Spec::default(), backend, &Bound::standard(), Events::default().listener());
            let error = made.err().expect("an older driver took limits that it does not know");
            assert!(error.message.starts_with("the driver cannot limit the memory segments"), "{error}");
            continue;
        }
        let disk = Disk::share(&Spec::default(), backend);
        assert_eq!(disk.limit("max_segments"), most, "{segments:?}");
        assert_eq!(disk.limit("max_segment_size"), size, "{segments:?}");
        let file = disk.open();
        let mut transfers = [Transfer::write(0, whole as usize)];
        assert_eq!(at_once(&file, &mut transfers), [whole as i32]);
        let seen = checking.largest();
        assert!(seen <= largest && seen > 4096, "{segments:?}: a request of {seen} bytes");
        checking.assert_right();
        drop(file);
        disk.finish();
    }
}

#[test]
fn thirty_two_mebibytes_come_as_one_request() {
    let _alone = alone();
    const MOST: usize = 32 << 20;
    let checking = Checking::new(64 * MIB, 4096);
    let spec = Spec { max_io: MOST as u32, depth: 2, ..Spec::default() };
    let disk = Disk::share(&spec, checking.clone());
    assert_eq!(disk.limit("max_hw_sectors_kb"), 32 << 10);
    disk.allow_requests_of(MOST as u64);
    let file = disk.open();
    let mut transfers = [Transfer::write(0, MOST)];
    assert_eq!(at_once(&file, &mut transfers), [MOST as i32]);
    let [written] = transfers;
    // The same memory again: most of this test's time is the making of such data.
    let mut transfers = [Transfer { write: false, offset: MOST as u64, data: written.data }];
    assert_eq!(at_once(&file, &mut transfers), [MOST as i32]);
    assert_eq!(first_wrong(&transfers[0].data, MOST as u64), None);
    assert_eq!(checking.largest(), MOST as u64, "sent in parts");
    checking.assert_right();
    drop(file);
    disk.finish();
}
