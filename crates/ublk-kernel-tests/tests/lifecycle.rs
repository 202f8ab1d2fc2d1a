//! A device's life, on the real driver.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ublk_core::backend::{Backend, Memory, Null};
use ublk_core::{Bound, Cancel, Device, ErrorKind, Event, Spec, registry};
use ublk_kernel_tests::{Events, alone};

fn silent() -> Arc<dyn Fn(Event) + Send + Sync> {
    Arc::new(|event| panic!("unexpected event: {event:?}"))
}

fn memory(size: u64) -> Arc<dyn Backend> {
    Arc::new(Memory::new(size).unwrap())
}

fn disk(device: &Device) -> File {
    OpenOptions::new().read(true).write(true).open(format!("/dev/ublkb{}", device.id())).unwrap()
}

#[test]
fn what_is_written_is_read_and_the_device_goes_without_a_trace() {
    let _alone = alone();
    let bound = Bound::standard();
    let device = Device::create(&Spec::default(), memory(16 << 20), &bound, silent()).unwrap();
    device.start(&bound).unwrap();
    let written: Vec<u8> = (0..1 << 20).map(|at| (at * 7 % 251) as u8).collect();
    let file = disk(&device);
    file.write_all_at(&written, 3 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let mut read = vec![0; 1 << 20];
    disk(&device).read_exact_at(&mut read, 3 << 20).unwrap();
    assert!(read == written);
    let id = device.id();
    device.delete(true, &bound).unwrap();
    assert_eq!(registry::open(id, &bound).unwrap_err().kind, ErrorKind::NotFound);
    assert!(!std::path::Path::new(&format!("/dev/ublkb{id}")).exists());
    device.delete(true, &bound).unwrap();
    assert_eq!(device.start(&bound).unwrap_err().kind, ErrorKind::Closed);
}

#[test]
fn a_stopped_device_starts_again_with_its_data() {
    let _alone = alone();
    let bound = Bound::standard();
    let spec = Spec { queues: 2, depth: 7, ..Spec::default() };
    let device = Device::create(&spec, memory(1 << 20), &bound, silent()).unwrap();
    for round in 0..5 {
        device.start(&bound).unwrap();
        assert_eq!(device.start(&bound).unwrap_err().kind, ErrorKind::Busy);
        let file = disk(&device);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4096).unwrap();
        assert_eq!(byte[0], round);
        file.write_all_at(&[round + 1], 4096).unwrap();
        file.sync_all().unwrap();
        drop(file);
        device.stop(true, &bound).unwrap();
    }
    device.delete(true, &bound).unwrap();
}

#[test]
fn a_device_deleted_by_somebody_else_says_so() {
    let _alone = alone();
    let events = Arc::new(Mutex::new(Vec::new()));
    let (sender, exited) = std::sync::mpsc::channel();
    let listener: Arc<dyn Fn(Event) + Send + Sync> = {
        let (events, sender) = (events.clone(), Mutex::new(sender));
        Arc::new(move |event| {
            events.lock().unwrap().push(event);
            let _ = sender.lock().unwrap().send(());
        })
    };
    let bound = Bound::standard();
    let device = Device::create(&Spec::default(), Arc::new(Null::new(1 << 20)), &bound, listener).unwrap();
    device.start(&bound).unwrap();
    registry::delete(device.id(), false, &bound).unwrap();
    exited.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    assert!(matches!(&events.lock().unwrap()[..], [Event::Exit { .. }]));
    device.delete(true, &bound).unwrap();
}

#[test]
fn a_deleted_device_lets_go_of_its_backend() {
    let _alone = alone();
    let bound = Bound::standard();
    let backend = memory(1 << 20);
    let seen = Arc::downgrade(&backend);
    let device = Device::create(&Spec::default(), backend, &bound, silent()).unwrap();
    device.start(&bound).unwrap();
    assert!(seen.upgrade().is_some());
    device.delete(false, &bound).unwrap();
    assert!(seen.upgrade().is_none(), "the handle is kept, the memory is not");
}

#[test]
fn a_device_deleted_by_somebody_else_leaves_its_successor_alone() {
    let _alone = alone();
    let bound = Bound::standard();
    let ignore: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(|_| {});
    for started in [false, true] {
        let create = |spec: &Spec| Device::create(spec, memory(1 << 20), &bound, ignore.clone()).unwrap();
        let first = create(&Spec::default());
        if started {
            first.start(&bound).unwrap();
        }
        registry::delete(first.id(), false, &bound).unwrap();
        let second = create(&Spec { id: Some(first.id()), ..Spec::default() });
        second.start(&bound).unwrap();
        if !started {
            assert_eq!(first.start(&bound).unwrap_err().kind, ErrorKind::Closed);
        }
        first.delete(true, &bound).unwrap();
        drop(first);
        disk(&second).write_all_at(&[1; 4096], 0).unwrap();
        second.delete(true, &bound).unwrap();
    }
}

#[test]
fn a_cancelled_creation_leaves_nothing() {
    let _alone = alone();
    let before = registry::list(&Bound::standard()).unwrap().len();
    let bound = Bound { cancel: Cancel::default(), ..Bound::standard() };
    bound.cancel.cancel();
    let error = Device::create(&Spec::default(), memory(1 << 20), &bound, silent()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert_eq!(registry::list(&Bound::standard()).unwrap().len(), before);
}

#[test]
fn a_taken_id_is_refused() {
    let _alone = alone();
    let bound = Bound::standard();
    let device = Device::create(&Spec::default(), memory(1 << 20), &bound, silent()).unwrap();
    let spec = Spec { id: Some(device.id()), ..Spec::default() };
    let error = Device::create(&spec, memory(1 << 20), &bound, silent()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Exists);
    device.delete(true, &bound).unwrap();
}

/// Whenever the wait for a deletion is cancelled: the device is as it was, or its owner hears that it has ended.
#[test]
fn a_deletion_that_is_cancelled_leaves_no_device_that_has_ended_unnoticed() {
    let _alone = alone();
    for at in 0..24 {
        let events = Events::default();
        let device =
            Device::create(&Spec::default(), memory(1 << 20), &Bound::standard(), events.listener()).unwrap();
        device.start(&Bound::standard()).unwrap();
        let bound = Bound { cancel: Cancel::default(), ..Bound::standard() };
        let cancel = bound.cancel.clone();
        let deleted = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(at * at * 50));
                cancel.cancel();
            });
            device.delete(true, &bound)
        });
        let Err(error) = deleted else { continue };
        assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
        let live = || {
            let found = registry::open(device.id(), &Bound::standard());
            found.is_ok_and(|found| found.state == registry::State::Live)
        };
        let heard = || events.all().iter().any(|event| matches!(event, Event::Exit { .. }));
        // What was sent to the driver may still be done.
        std::thread::sleep(Duration::from_millis(100));
        assert!(live() || heard(), "cancelled after {} us: {error}", at * at * 50);
        assert!(!live() || !heard(), "cancelled after {} us: {error}", at * at * 50);
        device.delete(true, &Bound::standard()).unwrap();
    }
}
