//! A device that this process serves. What only some disks have is in the modules.

mod changed;
mod faults;
mod heat;
mod layers;
mod lazy;
mod moving;
mod nbd;
mod recorded;
mod volume;

use crate::Cancel;
use crate::hooks::{Changes, Fetches, Wanted, callable};
use crate::kinds::{Contents, FileOfDisk, Stack};
use crate::number::{maybe, number, whole};
use crate::opening::{Opened, OpeningBackend};
use crate::queue::{Offer, hand_out, leave_all};
use crate::registry::{DeviceInfo, ServingChoice, choice_of, info_of};
use crate::task::{promise, raised};
use crate::telemetry::{QueueStats, Trace, TraceBatch, stats_of, trace};
use napi::bindgen_prelude::{Function, Object};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi::{Env, Result, Status};
use napi_derive::napi;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ublk_core::backend::Backend;
use ublk_core::device::{Listener, PendingQueue};
use ublk_core::error::{Error as CoreError, Result as CoreResult};
use ublk_core::{Bound, ErrorKind, Event, Spec};

/// What device to make. Sizes are bytes: as multiples of 512 they are exact up to 8 EiB.
#[napi(object)]
pub struct DeviceSpec {
    /// Where its data lives: its kind, and the options of that kind.
    #[napi(ts_type = "{ readonly kind: string; readonly [option: string]: unknown }")]
    pub backend: Value,
    /// Its options, which are the fields of [`Spec`].
    #[napi(ts_type = "object")]
    pub options: Value,
    /// The files of an existing disk: other files are refused.
    pub files: Option<Vec<FileOfDisk>>,
    /// The limit of each control command, in milliseconds. Default: 10 000.
    pub timeout: Option<f64>,
}

/// What a device tells without being asked.
#[napi(object)]
pub struct DeviceEvent {
    /// `error`: something failed, mostly in a queue; `fenced`: another process has opened what the disk is in; `exit`: the device is
    /// no longer served.
    #[napi(js_name = "type", ts_type = "'error' | 'fenced' | 'exit'")]
    pub kind: String,
    /// One line.
    pub message: String,
    /// The queue's number, of an error that concerns one.
    pub queue: Option<u32>,
}

/// A device that this process serves.
#[napi]
pub struct Device {
    device: Arc<ublk_core::Device>,
    timeout: Duration,
    env: usize,
    fetches: Option<Arc<Fetches>>,
    changes: Option<Arc<Changes>>,
    contents: Contents,
    /// Its disk has moved to the backend that this is for.
    moved: Arc<AtomicBool>,
}

#[napi]
impl Device {
    /// Adds a device to the driver; its disk appears with `start`. `on_fetch`: called to fetch missing data of a lazy disk;
    /// `on_change`: called when there are changes for `take_changes`.
    #[napi(ts_return_type = "Promise<Device>")]
    pub fn create<'env>(
        env: &'env Env,
        spec: DeviceSpec,
        cancel: &Cancel,
        on_event: Function<'_, DeviceEvent, ()>,
        on_fetch: Option<Function<'_, Wanted, ()>>,
        on_change: Option<Function<'_, (), ()>>,
    ) -> Result<Object<'env>> {
        make(env, spec, cancel, false, Calls { on_event, on_fetch, on_change }, ublk_core::Device::create)
    }

    /// A device that another process made and serves no more, for `recover`: it is as it was if that does not come.
    /// Only the options of serving apply. The callbacks are those of `create`.
    #[napi(ts_return_type = "Promise<Device>")]
    pub fn adopt<'env>(
        env: &'env Env,
        id: f64,
        spec: DeviceSpec,
        cancel: &Cancel,
        on_event: Function<'_, DeviceEvent, ()>,
        on_fetch: Option<Function<'_, Wanted, ()>>,
        on_change: Option<Function<'_, (), ()>>,
    ) -> Result<Object<'env>> {
        make(
            env,
            spec,
            cancel,
            true,
            Calls { on_event, on_fetch, on_change },
            move |wishes, backend, bound, listener| {
                ublk_core::Device::adopt(whole("id", id)?, backend, bound, listener)?.served_as(wishes)
            },
        )
    }

    /// The driver's number for it.
    #[napi(getter)]
    pub fn id(&self) -> u32 {
        self.device.id()
    }

    /// Shares a file in memory with the disk's clients. Resolves to the number of that memory.
    #[napi(ts_return_type = "Promise<number>")]
    pub fn share<'env>(&self, env: &'env Env, path: String, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let work = move || {
            let file = File::options().read(true).write(true).open(&path).map_err(|error| {
                CoreError::system(format!("cannot open {path}"), &error).kind(ErrorKind::Backend)
            })?;
            device.share(file, &bound).map(u32::from)
        };
        promise(env, work, |_, number: u32| Ok(number))
    }

    /// Shares it no more.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn unshare<'env>(&self, env: &'env Env, number: f64, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        promise(env, move || device.unshare(whole("number", number)?, &bound), |_, ()| Ok(()))
    }

    /// The identity of its files, as they were opened.
    #[napi]
    pub fn files(&self, env: &Env) -> Result<Vec<FileOfDisk>> {
        let files = self.device.files().map_err(|error| raised(env, &error))?;
        Ok(files.into_iter().map(FileOfDisk::from).collect())
    }

    /// In which of the driver's ways it is served, and why.
    #[napi(getter)]
    pub fn choice(&self) -> ServingChoice {
        choice_of(self.device.choice())
    }

    /// Makes the disk appear; resolves when it is usable. An external backend's queues are handed out to
    /// `on_queues`, and have to be taken before it can be.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn start<'env>(
        &self,
        env: &'env Env,
        cancel: &Cancel,
        on_queues: Option<Function<'_, Vec<u32>, ()>>,
    ) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let Some(on_queues) = on_queues else {
            return promise(env, move || device.start(&bound), |_, ()| Ok(()));
        };
        let hand = handing_to(&on_queues)?;
        promise(env, move || device.start_with(&bound, hand), |_, ()| Ok(()))
    }

    /// Takes over a recoverable device without a server; otherwise as `start`.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn recover<'env>(
        &self,
        env: &'env Env,
        cancel: &Cancel,
        on_queues: Option<Function<'_, Vec<u32>, ()>>,
    ) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let Some(on_queues) = on_queues else {
            return promise(env, move || device.recover(&bound), |_, ()| Ok(()));
        };
        let hand = handing_to(&on_queues)?;
        promise(env, move || device.recover_with(&bound, hand), |_, ()| Ok(()))
    }

    /// Whether it has no backend yet: it was created with one of kind `unbound`.
    #[napi(getter)]
    pub fn unbound(&self) -> bool {
        self.device.is_unbound()
    }

    /// The size of its backend in bytes, which its disk has or is going to have.
    #[napi(getter)]
    pub fn backend_size(&self, env: &Env) -> Result<f64> {
        self.device.backend_size().map(number).map_err(|error| raised(env, &error))
    }

    /// Serves a live device that has no backend yet with one from now on; `show` gives its disk the size. Resolves to the
    /// same device with that backend. If it fails and the device is still `unbound`, nothing has changed. `show`: does that too,
    /// with a token to cancel it.
    #[napi(ts_return_type = "Promise<Device>")]
    pub fn bind<'env>(
        &self,
        env: &'env Env,
        spec: DeviceSpec,
        on_fetch: Option<Function<'_, Wanted, ()>>,
        on_change: Option<Function<'_, (), ()>>,
        show: Option<&Cancel>,
    ) -> Result<Object<'env>> {
        let (device, timeout, home) = (self.device.clone(), self.timeout, self.env);
        let show = show.map(|cancel| self.bound(cancel));
        let DeviceSpec { backend, options, files, .. } = spec;
        let opening = OpeningBackend::new(backend, options, files, on_fetch.as_ref(), on_change.as_ref())?;
        let work = move || {
            let Opened { backend, fetches, changes, contents, .. } = opening.open(false)?;
            device.bind(backend)?;
            if let Some(bound) = show {
                device.show(&bound)?;
            }
            served().insert((home, device.id()), (device.clone(), fetches.clone()));
            Ok(Device { device, timeout, env: home, fetches, changes, contents, moved: Arc::default() })
        };
        promise(env, work, |_, device| Ok(device))
    }

    /// Gives its disk the size of the backend to which it was bound.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn show<'env>(&self, env: &'env Env, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        promise(env, move || device.show(&bound), |_, ()| Ok(()))
    }

    /// Lets go of a live device without failing a request: its disk waits for `recover`, here or elsewhere.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn quiesce<'env>(&self, env: &'env Env, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        promise(env, move || device.quiesce(&bound), |_, ()| Ok(()))
    }

    /// Whether its disk waits for a server: it was quiesced, or its queues have failed.
    #[napi(ts_return_type = "Promise<boolean>")]
    pub fn waits<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let device = self.device.clone();
        promise(env, move || device.waits(), |_, waits: bool| Ok(waits))
    }

    /// Forgets a device that waits for a server: another process serves it, or will.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn release<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (device, key) = (self.device.clone(), (self.env, self.device.id()));
        let work = move || {
            device.release()?;
            forget(key, &device);
            Ok(())
        };
        promise(env, work, |_, ()| Ok(()))
    }

    /// Leaves it to the next server, as quietly as its recovery lets it, and forgets it, whatever fails.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn leave<'env>(&self, env: &'env Env, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound, key) = (self.device.clone(), self.bound(cancel), (self.env, self.device.id()));
        let work = move || {
            let left = device.leave(&bound);
            forget(key, &device);
            left
        };
        promise(env, work, |_, ()| Ok(()))
    }

    /// It was taken over for good: until then the end of this thread leaves it to the next server, and does not delete it.
    #[napi]
    pub fn keep(&self) {
        self.device.keep();
    }

    /// Gives a live disk a new size in bytes.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn resize<'env>(&self, env: &'env Env, size: f64, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let work = move || device.resize(whole("size", size)?, &bound);
        promise(env, work, |_, ()| Ok(()))
    }

    /// The device as the driver sees it.
    #[napi(ts_return_type = "Promise<DeviceInfo>")]
    pub fn info<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), Bound::standard());
        promise(env, move || device.info(&bound).map(info_of), |_, info: DeviceInfo| Ok(info))
    }

    /// What was done so far, by queue.
    #[napi]
    pub fn stats(&self) -> Vec<QueueStats> {
        (0..).zip(self.device.counters_by_queue()).map(|(queue, threads)| stats_of(queue, threads)).collect()
    }

    /// Tells a function of each request from now on, until it is stopped or the device is deleted.
    #[napi]
    pub fn trace(&self, env: &Env, on_batch: Function<'_, TraceBatch, ()>) -> Result<Trace> {
        trace(env, self.device.tracer(), &on_batch)
    }

    /// Removes the disk; `start` is possible again. Without `force` only while the disk is not in use.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn stop<'env>(&self, env: &'env Env, force: bool, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        promise(env, move || device.stop(force, &bound), |_, ()| Ok(()))
    }

    /// Stops the device, as `stop`, and removes it from the driver. Deleting it again does nothing.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn delete<'env>(&self, env: &'env Env, force: bool, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound, key) = (self.device.clone(), self.bound(cancel), (self.env, self.device.id()));
        let work = move || {
            device.delete(force, &bound)?;
            forget(key, &device);
            Ok(())
        };
        promise(env, work, |_, ()| Ok(()))
    }

    /// The changes made since it was last asked: `CHANGE_FIELDS` numbers for each; see `wire.rs`.
    #[napi]
    pub fn take_changes(&self) -> Vec<f64> {
        self.changes.as_ref().map(|changes| changes.take()).unwrap_or_default()
    }

    fn bound(&self, cancel: &Cancel) -> Bound {
        Bound { timeout: self.timeout, cancel: cancel.0.clone() }
    }
}

/// Rejects if a backend would open other files than its disk was created from, compared by path. Opens nothing.
#[napi(ts_return_type = "Promise<void>")]
pub fn check_files<'env>(
    env: &'env Env,
    #[napi(ts_arg_type = "DeviceSpec['backend']")] backend: Value,
    files: Vec<FileOfDisk>,
) -> Result<Object<'env>> {
    promise(env, move || Stack::read(&backend)?.check_files(&files), |_, ()| Ok(()))
}

/// What a device calls.
struct Calls<'a> {
    on_event: Function<'a, DeviceEvent, ()>,
    on_fetch: Option<Function<'a, Wanted, ()>>,
    on_change: Option<Function<'a, (), ()>>,
}

/// Opens the backend and makes a device with it. `existing`: whether the disk exists already.
fn make<'env>(
    env: &'env Env,
    spec: DeviceSpec,
    cancel: &Cancel,
    existing: bool,
    calls: Calls<'_>,
    device: impl FnOnce(&Spec, Arc<dyn Backend>, &Bound, Listener) -> CoreResult<ublk_core::Device>
    + Send
    + 'static,
) -> Result<Object<'env>> {
    let events = callable(&calls.on_event)?;
    let timeout = maybe("timeout", spec.timeout).map_err(|error| raised(env, &error))?.unwrap_or(10_000);
    let timeout = Duration::from_millis(u64::max(timeout, 1));
    let bound = Bound { timeout, cancel: cancel.0.clone() };
    let DeviceSpec { backend, options, files, .. } = spec;
    let (on_fetch, on_change) = (calls.on_fetch.as_ref(), calls.on_change.as_ref());
    let opening = OpeningBackend::new(backend, options, files, on_fetch, on_change)?;
    let home = env.raw() as usize;
    let work = move || {
        let Opened { wishes, backend, fetches, changes, contents } = opening.open(existing)?;
        let listener = Arc::new(move |event| {
            let status: Status = events.call(to_js(event), ThreadsafeFunctionCallMode::NonBlocking);
            let _ = status; // closing: nobody is left to tell
        });
        let device = Arc::new(device(&wishes, backend, &bound, listener)?);
        served().insert((home, device.id()), (device.clone(), fetches.clone()));
        Ok(Device { device, timeout, env: home, fetches, changes, contents, moved: Arc::default() })
    };
    promise(env, work, |_, device| Ok(device))
}

/// Hands queues to a JavaScript function, on its thread, by number.
fn handing_to(
    on_queues: &Function<'_, Vec<u32>, ()>,
) -> Result<impl FnOnce(Vec<PendingQueue>) -> CoreResult<Offer> + Send + use<>> {
    let on_queues = callable(on_queues)?;
    Ok(move |queues| {
        let offer = hand_out(queues);
        match on_queues.call(offer.numbers(), ThreadsafeFunctionCallMode::NonBlocking) {
            Status::Ok => Ok(offer),
            _ => Err(CoreError::new(ErrorKind::Closed, "the thread that was to start the device is ending")),
        }
    })
}

type Served = HashMap<(usize, u32), (Arc<ublk_core::Device>, Option<Arc<Fetches>>)>;

/// The devices that have not been deleted, by JavaScript environment and id: a device lives until it is
/// deleted, not until its handle is garbage.
static SERVED: LazyLock<Mutex<Served>> = LazyLock::new(Mutex::default);

fn served() -> MutexGuard<'static, Served> {
    SERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device is this process's matter no more.
fn forget(key: (usize, u32), device: &Arc<ublk_core::Device>) {
    let mut served = served();
    // The id may be another device's by now.
    if served.get(&key).is_some_and(|(other, _)| Arc::ptr_eq(other, device)) {
        served.remove(&key);
    }
}

/// How long a device may take to go when its process is going.
const LAST_BOUND: Duration = Duration::from_secs(5);

/// Deletes every device of an environment that is coming to its end, except for those that wait for another server. If it
/// ends by a failure, recoverable devices are left to the next server instead.
fn end_all(home: usize, failed: bool) {
    leave_all(); // the devices would wait for what this thread serves
    let leaving: Vec<_> = {
        let mut served = served();
        let keys: Vec<_> = served.keys().filter(|(env, _)| *env == home).copied().collect();
        keys.iter().filter_map(|key| served.remove(key)).collect()
    };
    for (device, fetches) in leaving {
        if let Some(fetches) = fetches {
            fetches.refuse(); // JavaScript answers no more
        }
        // Nobody is left to tell, and the next device still has its chance.
        let _ = device.abandon(failed, &Bound { timeout: LAST_BOUND, ..Bound::standard() });
    }
}

/// A Worker's devices end with the Worker. One that ends in an orderly way has called [`end_served_devices`] before: here
/// it was terminated, or out of memory.
#[napi_derive::napi(module_exports)]
pub fn init(_exports: Object<'_>, env: Env) -> Result<()> {
    let home = env.raw() as usize;
    env.add_env_cleanup_hook(home, |home| end_all(home, true)).map(drop)
}

/// Deletes every device of this thread, or leaves it to the next server if it is recoverable and the thread `failed`, and
/// waits for that: for `process.on('exit')`, since `process.exit()` runs no clean-up hooks.
#[napi]
pub fn end_served_devices(env: &Env, failed: bool) {
    end_all(env.raw() as usize, failed);
}

fn to_js(event: Event) -> DeviceEvent {
    match event {
        Event::Error { queue, message } => {
            DeviceEvent { kind: "error".into(), message, queue: queue.map(u32::from) }
        }
        Event::Fenced { message } => DeviceEvent { kind: "fenced".into(), message, queue: None },
        Event::Exit { message } => DeviceEvent { kind: "exit".into(), message, queue: None },
        other => DeviceEvent { kind: "error".into(), message: format!("{other:?}"), queue: None },
    }
}
