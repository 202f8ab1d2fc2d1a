//! A disk served for one test.

use crate::{PATIENCE, eventually, system};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use ublk_core::backend::Backend;
use ublk_core::device::Listener;
use ublk_core::{Bound, Device, Event, Spec};

/// The events of a device, kept.
#[derive(Clone, Default)]
pub struct Events(Arc<(Mutex<Vec<Event>>, Condvar)>);

impl Events {
    /// For [`Device::create`].
    pub fn listener(&self) -> Listener {
        let events = self.clone();
        Arc::new(move |event| {
            let (list, more) = &*events.0;
            list.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            more.notify_all();
        })
    }

    /// What came so far.
    pub fn all(&self) -> Vec<Event> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the first event that `is` it.
    pub fn wait_for(&self, is: impl Fn(&Event) -> bool) -> Event {
        let (list, more) = &*self.0;
        let list = list.lock().unwrap_or_else(PoisonError::into_inner);
        let (list, _) = more
            .wait_timeout_while(list, PATIENCE, |list| !list.iter().any(&is))
            .unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|event| is(event)).cloned().unwrap_or_else(|| panic!("only these came: {list:?}"))
    }

    /// Waits for the end of serving, and says why it was.
    pub fn exit(&self) -> String {
        match self.wait_for(|event| matches!(event, Event::Exit { .. })) {
            Event::Exit { message } => message,
            _ => unreachable!(),
        }
    }
}

/// A started device. It is deleted when the test is done with it, however that ends.
pub struct Disk {
    device: Device,
    events: Events,
}

impl Disk {
    /// Creates and starts it.
    pub fn start(spec: &Spec, backend: impl Backend + 'static) -> Self {
        Self::share(spec, Arc::new(backend))
    }

    /// As [`start`](Self::start), with a backend that the test looks at too.
    pub fn share(spec: &Spec, backend: Arc<dyn Backend>) -> Self {
        let events = Events::default();
        let device = Device::create(spec, backend, &Bound::standard(), events.listener()).unwrap();
        let disk = Self { device, events };
        disk.device.start(&Bound::standard()).unwrap();
        disk
    }

    /// Waits until the kernel's choice of a scheduler is changed: meanwhile it lets no request in until those in flight are
    /// answered, and would wait for ever for one that a test holds back until others arrive.
    #[must_use]
    pub fn settled(self) -> Self {
        let path = format!("/sys/block/ublkb{}/queue/scheduler", self.device.id());
        let changes = || std::fs::read_to_string(&path).is_ok_and(|found| found.contains("[mq-deadline]"));
        eventually("the scheduler is changed", || !changes());
        self
    }

    /// One that the test has started.
    pub fn of(device: Device) -> Self {
        Self { device, events: Events::default() }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it told.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The disk's node.
    pub fn path(&self) -> String {
        format!("/dev/ublkb{}", self.device.id())
    }

    /// Opens the disk around the page cache: each call on it is a request of its own.
    pub fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(self.path()).unwrap()
    }

    /// A limit that the kernel shows of the disk.
    pub fn limit(&self, name: &str) -> u64 {
        let path = format!("/sys/block/ublkb{}/queue/{name}", self.device.id());
        system::read(&path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Sets one.
    pub fn set_limit(&self, name: &str, value: &str) {
        std::fs::write(format!("/sys/block/ublkb{}/queue/{name}", self.device.id()), value).unwrap();
    }

    /// Lets the kernel send requests of up to this many bytes.
    pub fn allow_requests_of(&self, bytes: u64) {
        self.set_limit("max_sectors_kb", &(bytes >> 10).to_string());
    }

    /// Stops and deletes the device; nothing may have gone wrong with it, and nobody may have it open still: the
    /// driver waits for them.
    pub fn finish(self) {
        self.finish_after(&[]);
    }

    /// The same for a disk with which this may have happened.
    pub fn finish_after(self, possible: &[Event]) {
        self.device.delete(true, &Bound::standard()).unwrap();
        let events: Vec<_> =
            self.events.all().into_iter().filter(|event| !possible.contains(event)).collect();
        assert_eq!(events, [], "events of a disk that nothing else happened to");
    }
}
