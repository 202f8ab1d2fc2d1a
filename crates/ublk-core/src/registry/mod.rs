//! All devices of this machine, of any server.

mod claim;
mod ending;
mod server;
mod sysfs;
mod usage;
mod users;

pub use ending::{Ending, Outcome, delete, end, rouse, stop};
pub(crate) use ending::{remove, stop_through};
pub use server::{Condition, Server};
pub use sysfs::{Activity, activity};
pub use usage::{Claimed, claim_to_reset, claim_to_shrink, users};
pub use users::seen;

use crate::abi::sys::{self, ublksrv_ctrl_dev_info};
use crate::abi::{Params, SECTOR};
use crate::bound::Bound;
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FEATURES, Features};
use std::collections::{BTreeMap, BTreeSet};
use sysfs::Looks;

/// What the driver is doing with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Added, and not started or stopped again (`UBLK_S_DEV_DEAD`): there is no disk.
    Idle,
    /// The disk is there and served.
    Live,
    /// Its server has ended; I/O waits for a recovery.
    Quiesced,
    /// Its server has ended; I/O fails until a recovery.
    FailIo,
    /// Its disk is being removed: the driver waits until all its requests are answered.
    Stopping,
    /// The driver did not answer.
    Unknown,
}

impl State {
    /// Its name in the public API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "stopped",
            Self::Live => "live",
            Self::Quiesced => "quiesced",
            Self::FailIo => "fail-io",
            Self::Stopping => "stopping",
            Self::Unknown => "unknown",
        }
    }
}

/// A device, as any process can see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Info {
    /// The driver's number.
    pub id: u32,
    /// What the driver is doing with it.
    pub state: State,
    /// The server's process, if one is visible.
    pub pid: Option<u32>,
    /// Whether the disk exists and has a server, even one that is not visible, such as in another PID namespace.
    pub served: bool,
    /// Bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Physical block size in bytes.
    pub physical_block_size: u32,
    /// Number of queues.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Largest request in bytes.
    pub max_io: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether it has a volatile write cache.
    pub write_cache: bool,
    /// Whether it honours forced unit access.
    pub fua: bool,
    /// Whether it announces that seeking is slow.
    pub rotational: bool,
    /// Bytes; 0 when it cannot discard.
    pub discard_granularity: u32,
    /// Bytes; 0 when it cannot discard.
    pub max_discard: u64,
    /// Bytes; 0 when it cannot write zeroes.
    pub max_write_zeroes: u64,
    /// Bytes: no read or write crosses a multiple of this; 0: any may.
    pub chunk: u32,
    /// Bytes: requests of this size, or of a multiple, cost least.
    pub optimal_io: u32,
    /// The most memory segments of a request; 0: any number.
    pub max_segments: u16,
    /// Bytes: the most in one segment; 0: any number.
    pub max_segment_size: u32,
    /// The driver's feature flags in use.
    pub flags: Features,
    /// The user that created it.
    pub owner_uid: u32,
    /// That user's group.
    pub owner_gid: u32,
}

impl Info {
    fn unknown(id: u32) -> Self {
        Self {
            id,
            state: State::Unknown,
            pid: None,
            served: false,
            size: 0,
            block_size: 0,
            physical_block_size: 0,
            queues: 0,
            depth: 0,
            max_io: 0,
            read_only: false,
            write_cache: false,
            fua: false,
            rotational: false,
            discard_granularity: 0,
            max_discard: 0,
            max_write_zeroes: 0,
            chunk: 0,
            optimal_io: 0,
            max_segments: 0,
            max_segment_size: 0,
            flags: Features(0),
            owner_uid: 0,
            owner_gid: 0,
        }
    }
}

/// One device, by its number. Never waits for the device's server.
pub fn open(id: u32, bound: &Bound) -> Result<Info> {
    look(&Control::open()?, id, bound, &mut Sight::default())
}

/// The same for a device of this process, which knows whether it serves it: with many devices, a process has thousands of open
/// files, among which this one would be looked for.
pub(crate) fn open_own(id: u32, serves: bool, bound: &Bound) -> Result<Info> {
    let own = serves.then_some(id).into_iter().collect();
    let mut sight = Sight { serves: BTreeMap::from([(std::process::id(), Some(own))]) };
    look(&Control::open()?, id, bound, &mut sight)
}

/// Caches what was found about processes while several devices are listed.
#[derive(Default)]
struct Sight {
    serves: BTreeMap<u32, Option<BTreeSet<u32>>>,
}

impl Sight {
    /// The process that serves a device, from the number that the driver reports, which may belong to another PID namespace.
    fn server(&mut self, id: u32, named: i32, live: bool) -> Option<u32> {
        let named = u32::try_from(named).ok().filter(|pid| *pid > 0);
        let serves = |pid: &u32| {
            let known = self.serves.entry(*pid).or_insert_with(|| server::served_by(*pid));
            // Another user's process cannot be inspected: then the driver's number is used.
            known.as_ref().map_or_else(|| server::condition(*pid) != Condition::Gone, |ids| ids.contains(&id))
        };
        let named = named.filter(serves);
        if named.is_some() || !live {
            return named;
        }
        Server::find(id, 0).map(|server| server.pid)
    }
}

fn look(control: &Control, id: u32, bound: &Bound, sight: &mut Sight) -> Result<Info> {
    let info = control.info(id, bound)?;
    let disk = sysfs::looks(id);
    let state = match (u32::from(info.state), disk.is_some() || !sysfs::mounted()) {
        // The driver updates the state only when all requests are answered.
        (sys::UBLK_S_DEV_LIVE | sys::UBLK_S_DEV_QUIESCED | sys::UBLK_S_DEV_FAIL_IO, false) => State::Stopping,
        (sys::UBLK_S_DEV_LIVE, true) => State::Live,
        (sys::UBLK_S_DEV_QUIESCED, true) => State::Quiesced,
        (sys::UBLK_S_DEV_FAIL_IO, true) => State::FailIo,
        _ => State::Idle,
    };
    let looks = match disk {
        Some(looks) => looks,
        // The driver waits for a disk's requests with the device locked, and GET_PARAMS would wait for that lock. So it
        // is sent only if there is no disk or no sysfs.
        None if state == State::Idle || !sysfs::mounted() => parameters(control, &info, bound)?,
        None => Looks::default(),
    };
    let live = state == State::Live;
    let pid = sight.server(id, info.ublksrv_pid, live);
    Ok(Info {
        id,
        state,
        pid,
        served: live && (pid.is_some() || !server::sees_all()),
        size: looks.size,
        block_size: looks.block_size,
        physical_block_size: looks.physical_block_size,
        queues: info.nr_hw_queues,
        depth: info.queue_depth,
        max_io: looks.max_io,
        read_only: looks.read_only,
        write_cache: looks.write_cache,
        fua: looks.fua,
        rotational: looks.rotational,
        discard_granularity: looks.discard_granularity,
        max_discard: looks.max_discard,
        max_write_zeroes: looks.max_write_zeroes,
        chunk: looks.chunk,
        optimal_io: looks.optimal_io,
        max_segments: looks.max_segments,
        max_segment_size: looks.max_segment_size,
        flags: Features(info.flags),
        owner_uid: info.owner_uid,
        owner_gid: info.owner_gid,
    })
}

/// The parameters of a future disk.
fn parameters(control: &Control, info: &ublksrv_ctrl_dev_info, bound: &Bound) -> Result<Looks> {
    let params = match control.params(Target::of(info), bound) {
        Ok(params) => params,
        // Added, and its parameters not set yet.
        Err(error) if error.kind != ErrorKind::NotFound => Params::default(),
        Err(error) => return Err(error),
    };
    let basic = params.basic;
    let discard =
        if params.types & sys::UBLK_PARAM_TYPE_DISCARD != 0 { params.discard } else { Default::default() };
    let (max_segments, max_segment_size) = params.segments().unwrap_or_default();
    let has = |flag| basic.attrs & flag != 0;
    Ok(Looks {
        size: basic.dev_sectors * SECTOR,
        block_size: 1 << basic.logical_bs_shift,
        physical_block_size: 1 << basic.physical_bs_shift,
        max_io: basic.max_sectors << 9,
        read_only: has(sys::UBLK_ATTR_READ_ONLY),
        write_cache: has(sys::UBLK_ATTR_VOLATILE_CACHE),
        fua: has(sys::UBLK_ATTR_FUA),
        rotational: has(sys::UBLK_ATTR_ROTATIONAL),
        discard_granularity: discard.discard_granularity,
        max_discard: u64::from(discard.max_discard_sectors) * SECTOR,
        max_write_zeroes: u64::from(discard.max_write_zeroes_sectors) * SECTOR,
        chunk: basic.chunk_sectors << 9,
        optimal_io: 1 << basic.io_opt_shift,
        max_segments,
        max_segment_size,
    })
}

/// Every device, by its number.
pub fn list(bound: &Bound) -> Result<Vec<Info>> {
    // The driver has no command for this; its class in sysfs holds one entry a device.
    let mut ids: Vec<u32> = match std::fs::read_dir("/sys/class/ublk-char") {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok())
            .collect(),
        // No driver, no class; the control device says it better.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::system("cannot read /sys/class/ublk-char", &error)),
    };
    ids.sort_unstable();
    let mut devices = Vec::with_capacity(ids.len());
    let (control, mut sight) = (Control::open()?, Sight::default());
    for id in ids {
        match look(&control, id, bound, &mut sight) {
            Ok(info) => devices.push(info),
            // Deleted meanwhile, or another user's.
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NoPermission) => {}
            // A failure concerns only its device.
            Err(_) => devices.push(Info::unknown(id)),
        }
    }
    Ok(devices)
}

/// What the running driver can do, feature by feature.
pub fn features(bound: &Bound) -> Result<Vec<(crate::features::Feature, bool)>> {
    let able = Control::open()?.features(bound)?;
    Ok(FEATURES.iter().map(|feature| (*feature, able.has(feature.flag))).collect())
}
