//! The control plane against the real driver: bounds, cancellation, errors, and its own end.

use std::os::fd::AsRawFd;
use std::thread::JoinHandle;
use std::time::Duration;
use ublk_core::testing::abi::{Params, sys};
use ublk_core::testing::{Control, described};
use ublk_core::{Bound, Cancel, Device, Error, ErrorKind, Spec, registry};
use ublk_kernel_tests::*;

fn soon(cancel: &Cancel) -> Bound {
    Bound { cancel: cancel.clone(), ..Bound::standard() }
}

/// START_DEV of a device whose tags nobody fetches: it can never complete.
fn start_in_background(device: &RawDevice, bound: Bound) -> JoinHandle<Error> {
    let (control, id) = (device.control.clone(), device.id);
    std::thread::spawn(move || control.start(id, &bound).unwrap_err())
}

/// The control thread, and every command but the stuck one, work.
fn assert_works(device: &RawDevice) {
    let info = device.control.info(device.id, &Bound::standard()).unwrap();
    assert_eq!((info.dev_id, u32::from(info.state)), (device.id, sys::UBLK_S_DEV_DEAD));
    device.control.params(device.id, &Bound::standard()).unwrap();
    device.control.features(&Bound::standard()).unwrap();
}

#[test]
fn a_command_that_cannot_complete_ends_when_it_is_cancelled() {
    let _alone = alone();
    let device = RawDevice::add(1, 4);
    let cancel = Cancel::default();
    let start = start_in_background(&device, soon(&cancel));
    assert_works(&device);
    assert!(!start.is_finished());
    cancel.cancel();
    let error = within("a cancelled command", || start.join().unwrap());
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert_eq!((error.command, error.device), (Some("START_DEV"), Some(device.id)));
    assert_works(&device);
}

#[test]
fn a_command_that_cannot_complete_ends_when_its_time_is_over() {
    let _alone = alone();
    let device = RawDevice::add(1, 4);
    let start =
        start_in_background(&device, Bound { timeout: Duration::from_millis(100), ..Bound::standard() });
    let error = within("a command with a bound", || start.join().unwrap());
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert_eq!((error.command, error.device), (Some("START_DEV"), Some(device.id)));
    assert!(error.hint.is_some());
    assert_works(&device);
}

#[test]
fn a_cancellation_is_noticed_at_whatever_moment_it_comes() {
    let _alone = alone();
    let device = RawDevice::add(1, 1);
    for delay in 0..300 {
        let cancel = Cancel::default();
        let canceller = {
            let cancel = cancel.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(delay * 3));
                cancel.cancel();
            })
        };
        let error = device.control.start(device.id, &soon(&cancel)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled, "cancelled after {} µs", delay * 3);
        canceller.join().unwrap();
    }
    assert_works(&device);
}

#[test]
fn a_creation_cancelled_at_whatever_moment_leaves_no_device() {
    let _alone = alone();
    let disk = ublk_core::backend::Properties::new(1 << 20);
    let (info, _) = described(&Spec::default(), &disk, 4096).unwrap();
    let control = Control::open().unwrap();
    for delay in 0..50 {
        let cancel = Cancel::default();
        let canceller = {
            let cancel = cancel.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(delay * 20));
                cancel.cancel();
            })
        };
        match control.add(&info, &soon(&cancel)) {
            Ok(added) => control.delete(added.dev_id, &Bound::standard()).unwrap(),
            Err(error) => assert_eq!(error.kind, ErrorKind::Cancelled),
        }
        canceller.join().unwrap();
    }
    eventually("the devices of cancelled creations are gone", || {
        registry::list(&Bound::standard()).unwrap().is_empty()
    });
}

#[test]
fn a_cancelled_token_ends_later_waits_too() {
    let _alone = alone();
    let cancel = Cancel::default();
    cancel.cancel();
    let control = Control::open().unwrap();
    assert_eq!(control.features(&soon(&cancel)).unwrap_err().kind, ErrorKind::Cancelled);
    control.features(&Bound::standard()).unwrap();
}

#[test]
fn one_token_ends_many_waits() {
    let _alone = alone();
    let devices: Vec<_> = (0..8).map(|_| RawDevice::add(1, 1)).collect();
    let cancel = Cancel::default();
    let starts: Vec<_> = devices.iter().map(|device| start_in_background(device, soon(&cancel))).collect();
    devices.iter().for_each(assert_works);
    cancel.cancel();
    for start in starts {
        assert_eq!(within("a cancelled command", || start.join().unwrap()).kind, ErrorKind::Cancelled);
    }
    devices.iter().for_each(assert_works);
}

#[test]
fn an_unknown_device_is_not_found_by_any_command() {
    let _alone = alone();
    let (control, bound) = (Control::open().unwrap(), Bound::standard());
    let params = Params::default();
    for id in [77, 1 << 19, (1 << 20) - 1, 1 << 20, u32::MAX - 1] {
        let failures = [
            control.info(id, &bound).err(),
            control.params(id, &bound).err(),
            control.set_params(id, &params, &bound).err(),
            control.affinity(id, 0, &bound).err(),
            control.start(id, &bound).err(),
            control.stop(id, &bound).err(),
            control.try_stop(id, &bound).err(),
            control.quiesce(id, &bound).err(),
            control.update_size(id, 4096, &bound).err(),
            control.start_recovery(id, &bound).err(),
            control.end_recovery(id, &bound).err(),
            control.delete(id, &bound).err(),
            control.delete_async(id, &bound).err(),
            registry::open(id, &bound).err(),
            registry::stop(id, true, &bound).err(),
            registry::delete(id, false, &bound).err(),
        ];
        for (at, failure) in failures.into_iter().enumerate() {
            let failure = failure.unwrap_or_else(|| panic!("command {at} found device {id}"));
            assert_eq!((failure.kind, failure.device), (ErrorKind::NotFound, Some(id)), "command {at}");
            assert_eq!(failure.errno, Some(libc::ENODEV), "command {at}");
        }
    }
}

#[test]
fn commands_in_the_wrong_state_are_errors_and_harmless() {
    let _alone = alone();
    let (device, bound) = (RawDevice::add(1, 1), Bound::standard());
    let (control, id) = (&device.control, device.id);
    control.stop(id, &bound).unwrap();
    for failure in [
        control.end_recovery(id, &Bound { timeout: Duration::from_millis(50), ..Bound::standard() }).err(),
        control.start_recovery(id, &bound).err(),
        control.quiesce(id, &bound).err(),
        control.affinity(id, 1, &bound).err(),
    ] {
        failure.unwrap();
    }
    assert_works(&device);
}

#[test]
fn every_one_of_many_callers_gets_its_own_answer() {
    let _alone = alone();
    let devices: Vec<_> = (0..4).map(|_| RawDevice::add(1, 3)).collect();
    let ids: Vec<_> = devices.iter().map(|device| device.id).collect();
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let ids = ids.clone();
            std::thread::spawn(move || {
                for round in 0..25 {
                    let id = ids[(caller + round) % ids.len()];
                    let control = Control::open().unwrap();
                    assert_eq!(control.info(id, &Bound::standard()).unwrap().dev_id, id);
                    assert_eq!(control.params(id, &Bound::standard()).unwrap().basic.dev_sectors, 2048);
                }
            })
        })
        .collect();
    within("many callers", || callers.into_iter().for_each(|caller| caller.join().unwrap()));
}

/// While anybody has the control device open, the driver's module cannot be unloaded.
#[test]
fn the_control_thread_and_its_device_go_with_the_last_handle() {
    let _alone = alone();
    let running = || system::threads().iter().any(|name| name == "ublk-control");
    let open = || system::descriptors().iter().any(|target| target == "/dev/ublk-control");
    for _ in 0..3 {
        let first = Control::open().unwrap();
        let second = Control::open().unwrap();
        drop(first);
        second.features(&Bound::standard()).unwrap();
        assert!(running() && open());
        drop(second);
        eventually("the control thread ends", || !running() && !open());
    }
    let device = Device::create(
        &Spec::default(),
        std::sync::Arc::new(ublk_core::backend::Null::new(1 << 20)),
        &Bound::standard(),
        Events::default().listener(),
    );
    let device = device.unwrap();
    assert!(running() && open());
    device.delete(true, &Bound::standard()).unwrap();
    drop(device);
    eventually("the control thread ends", || !running() && !open());
}

#[test]
fn a_taken_char_device_is_waited_for_within_the_bound() {
    let _alone = alone();
    let backend = std::sync::Arc::new(ublk_core::backend::Null::new(1 << 20));
    let events = Events::default();
    let device = Device::create(&Spec::default(), backend, &Bound::standard(), events.listener()).unwrap();
    let path = format!("/dev/ublkc{}", device.id());
    let thief = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert!(thief.as_raw_fd() >= 0);
    let short = Bound { timeout: Duration::from_millis(50), ..Bound::standard() };
    assert_eq!(device.start(&short).unwrap_err().kind, ErrorKind::Timeout);
    let cancel = Cancel::default();
    cancel.cancel();
    assert_eq!(device.start(&soon(&cancel)).unwrap_err().kind, ErrorKind::Cancelled);
    drop(thief);
    device.start(&Bound::standard()).unwrap();
    device.delete(true, &Bound::standard()).unwrap();
    assert_eq!(events.all(), []);
}
