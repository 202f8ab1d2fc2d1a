//! All devices of this machine, of any server.

use crate::Cancel;
use crate::kinds::ALL;
use crate::number::{number, whole};
use crate::task::{promise, raised};
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use std::time::Duration;
use ublk_core::device::Choice;
use ublk_core::queue::{self, Mode};
use ublk_core::registry::{self, Claimed, Ending, Info, Server};
use ublk_core::{Bound, features};

/// A device as anybody can see it. Sizes are bytes.
#[napi(object)]
pub struct DeviceInfo {
    /// The driver's number.
    pub id: u32,
    /// What the driver is doing with it; `stopped` also before its first start.
    #[napi(ts_type = "'live' | 'quiesced' | 'fail-io' | 'stopping' | 'stopped' | 'unknown'")]
    pub state: String,
    /// `/dev/ublkbN`
    pub path: String,
    /// `/dev/ublkcN`
    pub char_path: String,
    /// Bytes.
    pub size: f64,
    /// Bytes.
    pub block_size: u32,
    /// Bytes.
    pub physical_block_size: u32,
    /// Number of queues.
    pub queues: u32,
    /// Requests in flight per queue.
    pub depth: u32,
    /// Largest request in bytes.
    pub max_io: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Has a volatile write cache.
    pub write_cache: bool,
    /// Honours forced unit access.
    pub fua: bool,
    /// Seeks.
    pub rotational: bool,
    /// Bytes; 0 when it cannot discard.
    pub discard_granularity: u32,
    /// Bytes; 0 when it cannot discard.
    pub max_discard: f64,
    /// Bytes; 0 when it cannot write zeroes.
    pub max_write_zeroes: f64,
    pub chunk: u32,
    pub optimal_io: u32,
    pub max_segments: u32,
    pub max_segment_size: u32,
    /// The server's process; 0 if none is visible.
    pub pid: u32,
    /// Whether the disk exists and has a server, visible or not.
    pub server_alive: bool,
    /// How its requests travel.
    #[napi(ts_type = "'per-io' | 'batch'")]
    pub transport: String,
    /// How their data travels.
    #[napi(ts_type = "'copy' | 'user' | 'zero'")]
    pub copy: String,
    /// Names of the driver's features in use.
    pub flags: Vec<String>,
    /// The user that created it.
    pub owner_uid: u32,
    /// That user's group.
    pub owner_gid: u32,
}

/// One feature of the driver.
#[napi(object)]
pub struct Feature {
    /// The kernel's name without `UBLK_F_`.
    pub name: String,
    /// The number of its bit.
    pub bit: u32,
    /// The first kernel release that has it.
    pub since: String,
    /// Whether the running kernel has it.
    pub supported: bool,
    /// What it is good for.
    pub summary: String,
}

/// Every device, by its number.
#[napi(ts_return_type = "Promise<DeviceInfo[]>")]
pub fn list_devices(env: &Env) -> Result<Object<'_>> {
    let work = || Ok(registry::list(&Bound::standard())?.into_iter().map(info_of).collect());
    promise(env, work, |_, devices: Vec<DeviceInfo>| Ok(devices))
}

/// One device.
#[napi(ts_return_type = "Promise<DeviceInfo>")]
pub fn open_device(env: &Env, id: f64) -> Result<Object<'_>> {
    let work = move || registry::open(whole("id", id)?, &Bound::standard()).map(info_of);
    promise(env, work, |_, info: DeviceInfo| Ok(info))
}

/// How to end a device of any process.
#[napi(object)]
pub struct DeviceEnd {
    /// Even if it is in use or its server does not answer.
    pub force: bool,
    /// Delete the device as well as its disk.
    pub delete: bool,
    /// With `force`: after how many milliseconds without an answer its server is killed.
    pub patience: f64,
}

/// Stops a device of any process, and deletes it with `delete`. Without `force` only while its disk is not in use.
/// Returns what was done to its server, one line each.
#[napi(ts_return_type = "Promise<string[]>")]
pub fn end_device<'env>(env: &'env Env, id: f64, end: DeviceEnd, cancel: &Cancel) -> Result<Object<'env>> {
    let bound = Bound { cancel: cancel.0.clone(), ..Bound::standard() };
    let DeviceEnd { force, delete, patience } = end;
    let work = move || {
        let patience = Duration::from_millis(whole("patience", patience)?);
        registry::end(whole("id", id)?, Ending { force, delete, patience }, &bound)
    };
    promise(env, work, |_, notes: Vec<String>| Ok(notes))
}

/// Before a forced removal: continues the device's server if it is stopped; kills it if that has no effect. Returns
/// what was done, one line each.
#[napi(ts_return_type = "Promise<string[]>")]
pub fn rouse_server(env: &Env, id: f64) -> Result<Object<'_>> {
    promise(
        env,
        move || registry::rouse(whole("id", id)?, &Bound::standard()),
        |_, notes: Vec<String>| Ok(notes),
    )
}

/// The users of a disk, one phrase each: "mounted on /mnt", "open by fio (12)". Asks the kernel as well.
#[napi(ts_return_type = "Promise<string[]>")]
pub fn users(env: &Env, id: f64) -> Result<Object<'_>> {
    promise(env, move || Ok(registry::users(whole("id", id)?)), |_, users: Vec<String>| Ok(users))
}

/// The same, but only those that are visible without opening the disk, which might wait for its server.
#[napi(ts_return_type = "Promise<string[]>")]
pub fn seen_users(env: &Env, id: f64) -> Result<Object<'_>> {
    promise(env, move || Ok(registry::seen(whole("id", id)?)), |_, users: Vec<String>| Ok(users))
}

/// A disk's activity.
#[napi(object)]
pub struct DiskActivity {
    /// Requests that it has answered.
    pub answered: f64,
    /// Requests in flight.
    pub waiting: f64,
}

/// The activity of a device's disk; null if it has none or it is being removed. Never waits.
#[napi]
pub fn disk_activity(id: f64) -> Option<DiskActivity> {
    let activity = registry::activity(whole("id", id).ok()?)?;
    Some(DiskActivity { answered: number(activity.answered), waiting: number(activity.waiting) })
}

/// The process that serves a device.
#[napi(object)]
pub struct ServerProcess {
    /// Its process number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Whether it can run: `runs`, `stopped`, `traced` or `frozen`.
    #[napi(ts_type = "'runs' | 'stopped' | 'traced' | 'frozen' | 'gone'")]
    pub condition: String,
}

/// The process that has a device's `/dev/ublkcN` open, if it is visible. `named` is checked first.
#[napi]
pub fn server_of(id: f64, named: f64) -> Option<ServerProcess> {
    let server = Server::find(whole("id", id).ok()?, whole("process", named).ok()?)?;
    let condition = server.condition().name();
    let Server { pid, name, .. } = server;
    Some(ServerProcess { pid, name, condition: condition.to_owned() })
}

/// A disk that cannot be mounted, swapped to or used by another device until this is released.
#[napi]
pub struct DiskClaim(Option<Claimed>);

#[napi]
impl DiskClaim {
    /// Releases the disk.
    #[napi]
    pub fn release(&mut self) {
        self.0 = None;
    }
}

/// Claims a disk before it shrinks. Refused while it is in use.
#[napi(ts_return_type = "Promise<DiskClaim>")]
pub fn claim_to_shrink<'env>(env: &'env Env, id: f64, cancel: &Cancel) -> Result<Object<'env>> {
    let cancel = cancel.0.clone();
    let work = move || registry::claim_to_shrink(whole("id", id)?, &cancel);
    promise(env, work, |_, claimed| Ok(DiskClaim(claimed)))
}

/// Keeps a disk from being used before its reset; rejects if it is in use.
#[napi(ts_return_type = "Promise<DiskClaim>")]
pub fn claim_to_reset<'env>(env: &'env Env, id: f64, cancel: &Cancel) -> Result<Object<'env>> {
    let cancel = cancel.0.clone();
    let work = move || registry::claim_to_reset(whole("id", id)?, &cancel);
    promise(env, work, |_, claimed| Ok(DiskClaim(claimed)))
}

/// What the running driver can do.
#[napi(ts_return_type = "Promise<Feature[]>")]
pub fn features(env: &Env) -> Result<Object<'_>> {
    let work = || Ok(registry::features(&Bound::standard())?.into_iter().map(feature_of).collect());
    promise(env, work, |_, features: Vec<Feature>| Ok(features))
}

/// Tries whether this process may use io_uring; throws why it cannot.
#[napi]
pub fn probe_io_uring(env: &Env) -> Result<()> {
    queue::probe_io_uring().map_err(|error| raised(env, &error))
}

/// In which of the driver's ways a disk is served, and why.
#[napi(object)]
pub struct ServingChoice {
    /// How its requests travel.
    #[napi(ts_type = "'per-io' | 'batch'")]
    pub transport: String,
    /// Why so.
    pub transport_because: String,
    /// How their data travels.
    #[napi(ts_type = "'copy' | 'user' | 'zero'")]
    pub copy: String,
    /// Why so.
    pub copy_because: String,
}

/// What is chosen on this kernel for disks of a kind, if nothing is asked for.
#[napi(object)]
pub struct UsualChoice {
    /// The kind.
    pub backend: String,
    /// What is chosen.
    pub choice: ServingChoice,
}

/// What is chosen on this kernel for disks of each kind.
#[napi(ts_return_type = "Promise<UsualChoice[]>")]
pub fn usual_choices(env: &Env) -> Result<Object<'_>> {
    let work = || {
        let told = |(backend, choice): (&str, _)| UsualChoice {
            backend: backend.to_owned(),
            choice: choice_of(&choice),
        };
        let kinds = ALL.iter().filter_map(|kind| kind.usual);
        Ok(ublk_core::device::usual_choices(kinds, &Bound::standard())?.into_iter().map(told).collect())
    };
    promise(env, work, |_, choices: Vec<UsualChoice>| Ok(choices))
}

pub fn choice_of(choice: &Choice) -> ServingChoice {
    ServingChoice {
        transport: choice.mode.transport.name().to_owned(),
        transport_because: choice.transport_because.clone(),
        copy: choice.mode.copy.name().to_owned(),
        copy_because: choice.copy_because.clone(),
    }
}

fn feature_of((feature, supported): (features::Feature, bool)) -> Feature {
    Feature {
        name: feature.name.to_owned(),
        bit: feature.flag.trailing_zeros(),
        since: feature.since.to_owned(),
        supported,
        summary: feature.summary.to_owned(),
    }
}

pub fn info_of(info: Info) -> DeviceInfo {
    let mode = Mode::of(info.flags);
    DeviceInfo {
        id: info.id,
        state: info.state.name().to_owned(),
        path: format!("/dev/ublkb{}", info.id),
        char_path: format!("/dev/ublkc{}", info.id),
        size: number(info.size),
        block_size: info.block_size,
        physical_block_size: info.physical_block_size,
        queues: info.queues.into(),
        depth: info.depth.into(),
        max_io: info.max_io,
        read_only: info.read_only,
        write_cache: info.write_cache,
        fua: info.fua,
        rotational: info.rotational,
        discard_granularity: info.discard_granularity,
        max_discard: number(info.max_discard),
        max_write_zeroes: number(info.max_write_zeroes),
        chunk: info.chunk,
        optimal_io: info.optimal_io,
        max_segments: info.max_segments.into(),
        max_segment_size: info.max_segment_size,
        pid: info.pid.unwrap_or(0),
        server_alive: info.served,
        transport: mode.transport.name().to_owned(),
        copy: mode.copy.name().to_owned(),
        flags: info.flags.names().into_iter().map(str::to_owned).collect(),
        owner_uid: info.owner_uid,
        owner_gid: info.owner_gid,
    }
}
