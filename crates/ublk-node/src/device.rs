//! A device that this process serves.

use crate::Cancel;
use crate::queue::{Offer, hand_out};
use crate::registry::{DeviceInfo, info_of};
use crate::task::promise;
use napi::bindgen_prelude::{Function, Object};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi::{Env, Result, Status};
use napi_derive::napi;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ublk_core::backend::{Backend, Discard, External, File, Memory, Null, Properties};
use ublk_core::device::Seat;
use ublk_core::error::{Error as CoreError, Result as CoreResult};
use ublk_core::queue::{Op, QueueCounters};
use ublk_core::spec::Recovery;
use ublk_core::{Bound, ErrorKind, Event, Spec, registry};

/// Where a disk's data lives.
#[napi(object)]
pub struct BackendSpec {
    /// Which one; `external`: whoever takes the seats that `start` hands out.
    #[napi(ts_type = "'memory' | 'null' | 'file' | 'external'")]
    pub kind: String,
    /// Bytes; all but file.
    pub size: Option<f64>,
    /// File.
    pub path: Option<String>,
    /// File: around the page cache.
    pub direct: Option<bool>,
    /// External: bytes that the backend reads or writes at least. Default: 512.
    pub block_size: Option<f64>,
    /// External: whether completed writes may be lost until a flush.
    pub write_cache: Option<bool>,
    /// External: whether it discards.
    pub discard: Option<bool>,
    /// External: whether it writes zeroes.
    pub write_zeroes: Option<bool>,
}

/// The wishes for a device. Sizes are bytes: as multiples of 512 they are exact up to 8 EiB.
#[napi(object)]
pub struct DeviceSpec {
    /// Where its data lives.
    pub backend: BackendSpec,
    /// Default: the driver picks one.
    pub id: Option<f64>,
    /// Default: 1.
    pub queues: Option<f64>,
    /// Default: 128.
    pub depth: Option<f64>,
    /// Default: the backend's.
    pub block_size: Option<f64>,
    /// Default: 4096.
    pub physical_block_size: Option<f64>,
    /// Default: 512 KiB.
    pub max_io: Option<f64>,
    /// Default: no.
    pub read_only: Option<bool>,
    /// Default: the backend's.
    pub write_cache: Option<bool>,
    /// Default: no.
    pub rotational: Option<bool>,
    /// Default: what the backend can.
    pub discard: Option<bool>,
    /// Default: the backend's.
    pub discard_granularity: Option<f64>,
    /// Default: the backend's.
    pub max_discard: Option<f64>,
    /// Default: the disk goes with its server.
    #[napi(ts_type = "'requeue' | 'reissue' | 'fail'")]
    pub recovery: Option<String>,
    /// Bound on each control command. Default: 10 000.
    pub timeout_ms: Option<f64>,
}

/// What a device tells without being asked.
#[napi(object)]
pub struct DeviceEvent {
    /// `error`: something went wrong in a queue; `exit`: nobody serves the device any more.
    #[napi(js_name = "type", ts_type = "'error' | 'exit'")]
    pub kind: String,
    /// One line.
    pub message: String,
    /// The queue's number, of an error.
    pub queue: Option<u32>,
}

/// Counters of one kind of request.
#[napi(object)]
pub struct OpCounters {
    /// Requests answered.
    pub ops: f64,
    /// Bytes done with success.
    pub bytes: f64,
    /// Requests answered with an error.
    pub errors: f64,
}

/// Counters of one queue.
#[napi(object)]
pub struct QueueStats {
    /// Its number.
    pub queue: u32,
    /// Reads.
    pub read: OpCounters,
    /// Writes.
    pub write: OpCounters,
    /// Flushes.
    pub flush: OpCounters,
    /// Discards.
    pub discard: OpCounters,
    /// Write-zeroes.
    pub write_zeroes: OpCounters,
    /// Requests taken and not answered yet.
    pub in_flight: f64,
    /// `io_uring_enter` calls.
    pub turns: f64,
}

/// A device that this process serves.
#[napi]
pub struct Device {
    device: Arc<ublk_core::Device>,
    timeout: Duration,
    env: usize,
}

#[napi]
impl Device {
    /// Adds a device to the driver; its disk appears with `start`.
    #[napi(ts_return_type = "Promise<Device>")]
    pub fn create<'env>(
        env: &'env Env,
        spec: DeviceSpec,
        cancel: &Cancel,
        on_event: Function<'_, DeviceEvent, ()>,
    ) -> Result<Object<'env>> {
        // Weak: waiting for events is no reason for Node to stay.
        let events = on_event.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()?;
        let timeout = Duration::from_millis(spec.timeout_ms.unwrap_or(10_000.0).max(1.0) as u64);
        let bound = Bound { timeout, cancel: cancel.0.clone() };
        let home = env.raw() as usize;
        let work = move || {
            let wishes = wishes(&spec)?;
            let backend = backend(&spec.backend, wishes.read_only)?;
            let listener = Arc::new(move |event| {
                let status: Status = events.call(to_js(event), ThreadsafeFunctionCallMode::NonBlocking);
                let _ = status; // closing: nobody is left to tell
            });
            let device = Arc::new(ublk_core::Device::create(&wishes, backend, &bound, listener)?);
            served().insert((home, device.id()), device.clone());
            Ok(Self { device, timeout, env: home })
        };
        promise(env, work, |_, device| Ok(device))
    }

    /// The driver's number for it.
    #[napi(getter)]
    pub fn id(&self) -> u32 {
        self.device.id()
    }

    /// Makes the disk appear; resolves when it is usable. An external backend's seats, by queue, are handed out to
    /// `on_seats`, and have to be taken before it can be.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn start<'env>(
        &self,
        env: &'env Env,
        cancel: &Cancel,
        on_seats: Option<Function<'_, Vec<u32>, ()>>,
    ) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let Some(on_seats) = on_seats else {
            return promise(env, move || device.start(&bound), |_, ()| Ok(()));
        };
        let hand = handing_to(&on_seats)?;
        promise(env, move || device.start_with(&bound, hand), |_, ()| Ok(()))
    }

    /// Takes a recoverable device over whose queues have all ended; otherwise as `start` with seats.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn recover<'env>(
        &self,
        env: &'env Env,
        cancel: &Cancel,
        on_seats: Function<'_, Vec<u32>, ()>,
    ) -> Result<Object<'env>> {
        let (device, bound, hand) = (self.device.clone(), self.bound(cancel), handing_to(&on_seats)?);
        promise(env, move || device.recover_with(&bound, hand), |_, ()| Ok(()))
    }

    /// The device as the driver sees it.
    #[napi(ts_return_type = "Promise<DeviceInfo>")]
    pub fn info<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (id, bound) = (self.device.id(), Bound::standard());
        promise(env, move || registry::open(id, &bound).map(info_of), |_, info: DeviceInfo| Ok(info))
    }

    /// What was done so far, by queue.
    #[napi]
    pub fn stats(&self) -> Vec<QueueStats> {
        (0..).zip(self.device.counters()).map(|(queue, counters)| stats_of(queue, counters)).collect()
    }

    /// Makes the disk disappear; `start` is possible again. Without `force` only while nobody uses the disk.
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
            let mut served = served();
            // The id may be another device's by now.
            if served.get(&key).is_some_and(|other| Arc::ptr_eq(other, &device)) {
                served.remove(&key);
            }
            Ok(())
        };
        promise(env, work, |_, ()| Ok(()))
    }

    fn bound(&self, cancel: &Cancel) -> Bound {
        Bound { timeout: self.timeout, cancel: cancel.0.clone() }
    }
}

/// Hands seats to a JavaScript function, on its thread, by number.
fn handing_to(
    on_seats: &Function<'_, Vec<u32>, ()>,
) -> Result<impl FnOnce(Vec<Seat>) -> CoreResult<Offer> + Send + use<>> {
    let on_seats = on_seats.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()?;
    Ok(move |seats| {
        let offer = hand_out(seats);
        match on_seats.call(offer.numbers(), ThreadsafeFunctionCallMode::NonBlocking) {
            Status::Ok => Ok(offer),
            _ => Err(CoreError::new(ErrorKind::Closed, "the thread that was to start the device is ending")),
        }
    })
}

type Served = HashMap<(usize, u32), Arc<ublk_core::Device>>;

/// The devices that have not been deleted, by JavaScript environment and id: a device lives until it is
/// deleted, not until its handle is garbage.
static SERVED: LazyLock<Mutex<Served>> = LazyLock::new(Mutex::default);

fn served() -> MutexGuard<'static, Served> {
    SERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a device may take to go when its process is going.
const LAST_BOUND: Duration = Duration::from_secs(5);

/// Deletes every device of an environment that is coming to its end.
fn delete_all(home: usize) {
    let leaving: Vec<_> = {
        let mut served = served();
        let keys: Vec<_> = served.keys().filter(|(env, _)| *env == home).copied().collect();
        keys.iter().filter_map(|key| served.remove(key)).collect()
    };
    for device in leaving {
        // Nobody is left to tell, and the next device still has its chance.
        let _ = device.delete(true, &Bound { timeout: LAST_BOUND, ..Bound::standard() });
    }
}

/// A Worker's devices go with the Worker.
#[napi_derive::napi(module_exports)]
pub fn init(_exports: Object<'_>, env: Env) -> Result<()> {
    let home = env.raw() as usize;
    env.add_env_cleanup_hook(home, delete_all).map(drop)
}

/// Deletes every device of this thread, and waits for it: for `process.on('exit')`, since `process.exit()`
/// runs no clean-up hooks.
#[napi]
pub fn delete_served_devices(env: &Env) {
    delete_all(env.raw() as usize);
}

fn wishes(spec: &DeviceSpec) -> CoreResult<Spec> {
    let default = Spec::default();
    Ok(Spec {
        id: whole("id", spec.id)?,
        queues: whole("queues", spec.queues)?.unwrap_or(default.queues),
        depth: whole("depth", spec.depth)?.unwrap_or(default.depth),
        block_size: whole("blockSize", spec.block_size)?,
        physical_block_size: whole("physicalBlockSize", spec.physical_block_size)?,
        max_io: whole("maxIo", spec.max_io)?.unwrap_or(default.max_io),
        read_only: spec.read_only.unwrap_or(default.read_only),
        write_cache: spec.write_cache,
        rotational: spec.rotational.unwrap_or(default.rotational),
        discard: spec.discard,
        discard_granularity: whole("discardGranularity", spec.discard_granularity)?,
        max_discard: whole("maxDiscard", spec.max_discard)?,
        recovery: match spec.recovery.as_deref() {
            None => None,
            Some("requeue") => Some(Recovery::Requeue),
            Some("reissue") => Some(Recovery::Reissue),
            Some("fail") => Some(Recovery::Fail),
            Some(other) => {
                return Err(CoreError::invalid(format!("there is no recovery {other:?}"))
                    .hint("requeue, reissue and fail exist"));
            }
        },
    })
}

fn backend(spec: &BackendSpec, read_only: bool) -> CoreResult<Arc<dyn Backend>> {
    let size =
        || whole::<u64>("size", spec.size)?.ok_or_else(|| CoreError::invalid("this backend needs a size"));
    match spec.kind.as_str() {
        "memory" => Ok(Arc::new(Memory::new(size()?)?)),
        "null" => Ok(Arc::new(Null::new(size()?))),
        "file" => {
            let path = spec.path.as_deref().ok_or_else(|| CoreError::invalid("this backend needs a path"))?;
            Ok(Arc::new(File::open(Path::new(path), read_only, spec.direct.unwrap_or(false))?))
        }
        "external" => Ok(Arc::new(External::new(external(spec, size()?)?))),
        other => Err(CoreError::invalid(format!("there is no backend {other:?}"))
            .hint("memory, null, file and external exist")),
    }
}

fn external(spec: &BackendSpec, size: u64) -> CoreResult<Properties> {
    const MOST: u64 = 1 << 30;
    let limit = |able: Option<bool>| if able.unwrap_or(false) { MOST } else { 0 };
    let (max, max_write_zeroes) = (limit(spec.discard), limit(spec.write_zeroes));
    Ok(Properties {
        size,
        block_size: whole("blockSize", spec.block_size)?.unwrap_or(512),
        write_cache: spec.write_cache.unwrap_or(false),
        discard: (max > 0 || max_write_zeroes > 0).then_some(Discard {
            granularity: 4096,
            max,
            max_write_zeroes,
        }),
    })
}

/// A JavaScript number as a whole one that fits.
fn whole<T: TryFrom<u64>>(name: &str, value: Option<f64>) -> CoreResult<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    let whole = (value.fract() == 0.0 && (0.0..18_446_744_073_709_551_616.0).contains(&value))
        .then_some(value as u64);
    match whole.and_then(|whole| T::try_from(whole).ok()) {
        Some(whole) => Ok(Some(whole)),
        None => Err(CoreError::invalid(format!("{name} {value} is not a possible whole number"))),
    }
}

fn to_js(event: Event) -> DeviceEvent {
    match event {
        Event::Error { queue, message } => {
            DeviceEvent { kind: "error".into(), message, queue: Some(queue.into()) }
        }
        Event::Exit { message } => DeviceEvent { kind: "exit".into(), message, queue: None },
    }
}

fn stats_of(queue: u32, counters: &QueueCounters) -> QueueStats {
    let of = |op| {
        let counters = counters.of(op);
        OpCounters {
            ops: counters.ops.get() as f64,
            bytes: counters.bytes.get() as f64,
            errors: counters.errors.get() as f64,
        }
    };
    QueueStats {
        queue,
        read: of(Op::Read),
        write: of(Op::Write),
        flush: of(Op::Flush),
        discard: of(Op::Discard),
        write_zeroes: of(Op::WriteZeroes),
        in_flight: counters.in_flight() as f64,
        turns: counters.turns.get() as f64,
    }
}
