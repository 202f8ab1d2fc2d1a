//! Disks that are started before their backend is known.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use ublk_core::backend::{self, Backend, Memory, Stripe, Unbound};
use ublk_core::queue::{CopyMode, Transport};
use ublk_core::spec::Threads;
use ublk_core::{Bound, ErrorKind, Spec};
use ublk_kernel_tests::*;

const SIZE: u64 = 4 << 20;

fn unbound(spec: Spec) -> Disk {
    Disk::start(&spec, Unbound::new(512))
}

fn bind(disk: &Disk, backend: impl Backend + 'static) {
    assert!(disk.device().is_unbound());
    disk.device().bind(Arc::new(backend)).unwrap();
    assert_eq!(block::size(&File::open(disk.path()).unwrap()), 0);
    disk.device().show(&Bound::standard()).unwrap();
    assert!(!disk.device().is_unbound());
}

#[test]
fn a_disk_is_empty_until_it_is_bound_and_then_works_as_any_other() {
    for (transport, copy) in [
        (Transport::PerIo, CopyMode::Copy),
        (Transport::PerIo, CopyMode::User),
        (Transport::Batch, CopyMode::Copy),
    ] {
        let specs = [
            Spec { queues: 2, threads: Threads::Shared, ..Spec::default() },
            Spec { queues: 2, threads_per_queue: 2, ..Spec::default() },
        ];
        for spec in specs {
            let disk = unbound(Spec { transport: Some(transport), copy: Some(copy), ..spec });
            let mut before = File::open(disk.path()).unwrap();
            assert_eq!(before.read(&mut [0; 4096]).unwrap(), 0, "an empty disk was read");
            bind(&disk, Memory::new(SIZE).unwrap());
            assert_eq!(block::size(&before), SIZE);
            drop(before);
            exercise(&disk);
            let bound = disk.device().bind(Arc::new(Memory::new(SIZE).unwrap())).unwrap_err();
            assert_eq!(bound.kind, ErrorKind::Busy);
            disk.finish();
        }
    }
}

#[test]
fn the_ring_gets_the_files_of_a_backend_and_their_claims() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        fs::File::create(&path).unwrap().set_len(SIZE / 2).unwrap();
        path
    };
    let (one, two) = (file("one"), file("two"));
    let open = |path| -> Arc<dyn Backend> { Arc::new(backend::File::open(path, false, false).unwrap()) };
    let stripe = || Stripe::new(vec![open(&one), open(&two)], 64 << 10).unwrap();
    let disk = unbound(Spec { queues: 2, ..Spec::default() });
    bind(&disk, stripe());
    assert_eq!(disk.device().choice().mode.copy, CopyMode::Zero);
    exercise(&disk);
    // Nobody else may serve the files.
    let other = unbound(Spec::default());
    let refused = other.device().bind(Arc::new(stripe())).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Busy, "{refused}");
    assert!(other.device().is_unbound(), "a refusal changes nothing");
    disk.finish();
    bind(&other, stripe());
    let mut first = [0; 512];
    other.open().read_exact_at(&mut Aligned::new(512), 0).unwrap();
    File::open(&one).unwrap().read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first_wrong(&first, 0), None, "it has what was written before");
    other.finish();
}

#[test]
fn a_backend_that_does_not_fit_is_refused() {
    let disk = unbound(Spec { copy: Some(CopyMode::Copy), ..Spec::default() });
    let refused = |backend: Arc<dyn Backend>| {
        let error = disk.device().bind(backend).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(disk.device().is_unbound());
        (error.message, error.hint.map(|hint| hint.to_string()).unwrap_or_default())
    };
    let sized = |size| refused(Checking::new(size, 512));
    assert_eq!(
        refused(Checking::new(SIZE, 4096)),
        ("the backend's block size is 4096, the disk's 512".into(), "make it with block size 4096".into())
    );
    assert_eq!(sized(0).0, "the size is 0");
    assert_eq!(sized(700).0, "the size 700 is not a multiple of the block size 512");
    bind(&disk, Memory::new(SIZE).unwrap());
    exercise(&disk);
    disk.finish();
}
