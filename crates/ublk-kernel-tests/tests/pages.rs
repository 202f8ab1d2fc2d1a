//! Memory that is pre-faulted, in huge pages or locked.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use ublk_core::backend::Memory;
use ublk_core::{Bound, Device, ErrorKind, Pages, Spec};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;

/// One queue with 4 MiB of buffers.
fn spec(buffers: Pages) -> Spec {
    Spec { depth: 8, buffers, ..Spec::default() }
}

/// How much memory a new disk has before it is used, and how much of that is locked. It works.
fn memory_of(spec: &Spec, disk: Pages) -> (u64, u64) {
    let before = system::resident();
    let disk = Disk::start(spec, Memory::with(16 * MIB, disk).unwrap());
    let (resident, locked) = (system::resident().saturating_sub(before), system::locked());
    exercise(&disk);
    let file = disk.open();
    block::discard(&file, 4096, MIB).unwrap();
    block::zero_out(&file, 0, 8 * MIB).unwrap();
    drop(file);
    exercise(&disk);
    disk.finish();
    assert_eq!(system::locked(), 0, "locked after its end");
    (resident, locked)
}

#[test]
fn memory_is_there_before_it_is_used_if_that_is_wished() {
    let _alone = alone();
    let (none, prefault) = (Pages::default(), Pages { prefault: true, ..Pages::default() });
    let lock = Pages { lock: true, ..Pages::default() };
    let (resident, locked) = memory_of(&spec(none), none);
    assert!(resident < 3 * MIB && locked == 0, "{resident} bytes, {locked} locked, by default");
    let (resident, locked) = memory_of(&spec(prefault), none);
    assert!(
        (4 * MIB..7 * MIB).contains(&resident) && locked == 0,
        "{resident} bytes, {locked} locked: buffers"
    );
    let (resident, locked) = memory_of(&spec(lock), none);
    assert!(
        (4 * MIB..7 * MIB).contains(&resident) && locked >= 4 * MIB,
        "{resident}, {locked}: locked buffers"
    );
    let (resident, locked) = memory_of(&spec(prefault), lock);
    assert!(
        resident >= 20 * MIB && locked == 16 * MIB,
        "{resident} bytes, {locked} locked: disk and buffers"
    );
}

fn refused(device: &Device) -> ublk_core::Error {
    device.start(&Bound::standard()).unwrap_err()
}

#[test]
fn more_than_may_be_locked_is_refused_and_says_what_to_do() {
    let _alone = alone();
    let lock = Pages { lock: true, ..Pages::default() };
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    setrlimit(Resource::RLIMIT_MEMLOCK, MIB.min(hard), hard).unwrap();
    let error = within("a start", move || {
        system::without_capability(system::CAP_IPC_LOCK);
        let null = Arc::new(ublk_core::backend::Null::new(MIB));
        let device = Device::create(&spec(lock), null, &Bound::standard(), Arc::new(|_| {})).unwrap();
        let error = refused(&device);
        device.delete(true, &Bound::standard()).unwrap();
        error
    });
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard).unwrap();
    assert!(error.message.starts_with("cannot lock "), "{error}");
    assert!(error.message.contains("a queue's buffers: ") && error.errno == Some(libc::ENOMEM), "{error}");
    assert!(error.hint.unwrap().contains("ulimit -l"));
    assert_eq!(system::locked(), 0);
}

#[test]
fn huge_pages_are_had_or_refused() {
    let _alone = alone();
    let huge = Pages { huge: true, prefault: true, lock: false };
    if std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
        memory_of(&spec(huge), huge);
        return;
    }
    let null = Arc::new(ublk_core::backend::Null::new(MIB));
    let device = Device::create(&spec(huge), null, &Bound::standard(), Arc::new(|_| {})).unwrap();
    let error = refused(&device);
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    device.delete(true, &Bound::standard()).unwrap();
    assert_eq!(Memory::with(MIB, huge).err().map(|error| error.kind), Some(ErrorKind::Unsupported));
}

/// User-Mode Linux used to give a child wrong pages of mappings that are set up several pages at a time.
#[test]
fn a_child_has_the_pages_of_its_parents_ring() {
    const PAGE: usize = 4096;
    const ENTRIES: u32 = 512;
    let length = ENTRIES as usize * 64;
    let ring = io_uring::IoUring::new(ENTRIES).unwrap();
    // SAFETY: a fresh mapping of the ring's entries, which nothing is submitted from.
    let entries = unsafe {
        let (protection, offset) = (libc::PROT_READ | libc::PROT_WRITE, 0x1000_0000); // IORING_OFF_SQES
        libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, ring.as_raw_fd(), offset)
    };
    assert_ne!(entries, libc::MAP_FAILED);
    let page = |at: usize| entries.cast::<u64>().wrapping_byte_add(at * PAGE);
    // SAFETY: within the mapping.
    (0..length / PAGE).for_each(|at| unsafe { page(at).write(at as u64 + 1) });
    // SAFETY: the child only reads the mapping, and ends at once.
    let child = unsafe {
        match libc::fork() {
            0 => libc::_exit((0..length / PAGE).any(|at| page(at).read() != at as u64 + 1).into()),
            child => child,
        }
    };
    let mut status = -1;
    // SAFETY: writes a number, and the mapping is no longer used.
    unsafe {
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::munmap(entries, length);
    }
    assert_eq!(status, 0);
}
