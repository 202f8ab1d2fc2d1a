//! The devices there are, whoever serves them.

mod users;

use users::requests;
pub use users::users;

use crate::abi::{Params, SECTOR, sys};
use crate::control::{Bound, Control, Target};
use crate::device::static_dev;
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FEATURES, Features};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the driver is doing with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Added, and not started or stopped again (`UBLK_S_DEV_DEAD`): there is no disk.
    Idle,
    /// The disk is there and served.
    Live,
    /// Its server is gone; I/O waits for a recovery.
    Quiesced,
    /// Its server is gone; I/O fails until a recovery.
    FailIo,
}

/// A device as anybody can see it.
#[derive(Debug, Clone)]
pub struct Info {
    /// The driver's number.
    pub id: u32,
    /// What the driver is doing with it.
    pub state: State,
    /// The server's process, while there is one.
    pub pid: Option<u32>,
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
    pub max_discard: u64,
    /// Bytes; 0 when it cannot write zeroes.
    pub max_write_zeroes: u64,
    /// The driver's feature flags in use.
    pub flags: Features,
    /// The user who added it.
    pub owner_uid: u32,
    /// That user's group.
    pub owner_gid: u32,
}

/// One device, by its number.
pub fn open(id: u32, bound: &Bound) -> Result<Info> {
    let control = Control::open()?;
    let info = control.info(id, bound)?;
    let params = match control.params(Target::of(&info), bound) {
        Ok(params) => params,
        // Added, and its parameters not set yet.
        Err(error) if error.kind != ErrorKind::NotFound => Params::default(),
        Err(error) => return Err(error),
    };
    let basic = params.basic;
    let discard =
        if params.types & sys::UBLK_PARAM_TYPE_DISCARD != 0 { params.discard } else { Default::default() };
    let pid = u32::try_from(info.ublksrv_pid).ok().filter(|pid| Path::new(&format!("/proc/{pid}")).exists());
    let has = |flag| basic.attrs & flag != 0;
    let state = match u32::from(info.state) {
        sys::UBLK_S_DEV_LIVE => State::Live,
        sys::UBLK_S_DEV_QUIESCED => State::Quiesced,
        sys::UBLK_S_DEV_FAIL_IO => State::FailIo,
        _ => State::Idle,
    };
    Ok(Info {
        id,
        state,
        pid,
        size: basic.dev_sectors * SECTOR,
        block_size: 1 << basic.logical_bs_shift,
        physical_block_size: 1 << basic.physical_bs_shift,
        queues: info.nr_hw_queues,
        depth: info.queue_depth,
        max_io: basic.max_sectors << 9,
        read_only: has(sys::UBLK_ATTR_READ_ONLY),
        write_cache: has(sys::UBLK_ATTR_VOLATILE_CACHE),
        fua: has(sys::UBLK_ATTR_FUA),
        rotational: has(sys::UBLK_ATTR_ROTATIONAL),
        discard_granularity: discard.discard_granularity,
        max_discard: u64::from(discard.max_discard_sectors) * SECTOR,
        max_write_zeroes: u64::from(discard.max_write_zeroes_sectors) * SECTOR,
        flags: Features(info.flags),
        owner_uid: info.owner_uid,
        owner_gid: info.owner_gid,
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
    let _control = Control::open()?;
    for id in ids {
        match open(id, bound) {
            Ok(info) => devices.push(info),
            // Deleted meanwhile, or another user's.
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NoPermission) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(devices)
}

/// How long a mere look at a disk, such as the kernel's own partition scan or udev's, may keep it open.
const GLANCE: Duration = Duration::from_millis(500);

const IN_USE: &str = "unmount or close it, wait for that (--wait), or remove it anyway (--force)";

/// Stops a device, whoever serves it. Without `force` only while nobody uses its disk.
pub fn stop(id: u32, force: bool, bound: &Bound) -> Result<()> {
    stop_through(&Control::open()?, id, force, bound)
}

pub(crate) fn stop_through(control: &Control, id: u32, force: bool, bound: &Bound) -> Result<()> {
    stop_disk(control, id, force, bound)?;
    static_dev::tidy(id);
    Ok(())
}

fn stop_disk(control: &Control, id: u32, force: bool, bound: &Bound) -> Result<()> {
    let info = control.info(id, bound)?;
    let device = Target::of(&info);
    if force || u32::from(info.state) == sys::UBLK_S_DEV_DEAD {
        return control.stop(device, bound);
    }
    let safe = Features(info.flags).has(sys::UBLK_F_SAFE_STOP_DEV.into());
    let (glance, answers) = (Instant::now() + GLANCE, bound.until());
    loop {
        let users = users(id);
        // TRY_STOP_DEV and open() wait for a lock that the kernel holds while it reads the partition table, and no
        // signal ends that wait: they come after the answers.
        let waiting = requests(id) > 0;
        if users.is_empty() && !waiting && (safe || !claimed(id)) {
            let stopped = if safe { control.try_stop(device, bound) } else { control.stop(device, bound) };
            match stopped {
                Err(error) if error.kind == ErrorKind::Busy => {}
                // Its disk went away meanwhile: what remains is to stop its server.
                Err(error) if error.kind == ErrorKind::NotFound => return control.stop(device, bound),
                stopped => return stopped,
            }
        }
        let served = u32::from(control.info(id, bound)?.state) != sys::UBLK_S_DEV_QUIESCED;
        let until = if users.is_empty() && waiting && served { answers } else { glance };
        if Instant::now() >= until {
            return Err(in_use(id, &users, waiting, served));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn in_use(id: u32, users: &[String], waiting: bool, served: bool) -> Error {
    let (by, hint) = match (users, waiting) {
        ([], true) => (
            "requests, such as the kernel's for partitions, wait for their answers".to_owned(),
            if served {
                "wait for that (--wait), or remove it anyway (--force): then they fail"
            } else {
                "recover it, or remove it anyway (--force): then they fail"
            },
        ),
        ([], false) => ("by somebody out of sight".to_owned(), IN_USE),
        _ => (users.join(", "), IN_USE),
    };
    Error::new(ErrorKind::Busy, format!("/dev/ublkb{id} is in use: {by}")).hint(hint).device(id)
}

/// Whether somebody has the disk for itself, even out of this process's sight: a mount in another namespace.
fn claimed(id: u32) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let claim =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(format!("/dev/ublkb{id}"));
    claim.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

/// Stops a device and removes it. With `force` its id may stay taken until the last user closes the disk.
pub fn delete(id: u32, force: bool, bound: &Bound) -> Result<()> {
    let control = Control::open()?;
    let device = Target::of(&control.info(id, bound)?);
    stop_through(&control, id, force, bound)?;
    remove(&control, device, force, bound)
}

/// How long who forces a removal waits for the id to be free.
const REMOVAL: Duration = Duration::from_millis(500);

/// Removes a stopped device. The driver waits for the last user of the disk, even one that is gone; who forces does
/// not. One command only: once it is done the id may be another device's, which a second one would remove.
pub(crate) fn remove(control: &Control, device: Target, force: bool, bound: &Bound) -> Result<()> {
    let removed = match (force, device.by_path) {
        (false, _) => control.delete(device, bound),
        (true, false) => control.delete_async(device, bound),
        // The driver has no such command for ordinary users. What one waits for comes after the removal.
        (true, true) => {
            let soon = Bound { timeout: REMOVAL.min(bound.timeout), ..bound.clone() };
            control.delete(device, &soon).or_else(|error| match error.kind {
                ErrorKind::Timeout => Ok(()),
                _ => Err(error),
            })
        }
    };
    static_dev::tidy(device.id);
    match removed {
        // Somebody else was faster: its server, when it was stopped.
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    let until = Instant::now() + REMOVAL;
    while force && Instant::now() < until && control.info(device.id, bound).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What the running driver can do, feature by feature.
pub fn features(bound: &Bound) -> Result<Vec<(crate::features::Feature, bool)>> {
    let able = Control::open()?.features(bound)?;
    Ok(FEATURES.iter().map(|feature| (*feature, able.has(feature.flag))).collect())
}
