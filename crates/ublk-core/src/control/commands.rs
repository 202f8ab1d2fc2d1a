//! The commands, typed. Their numbers and meanings: `Documentation/block/ublk.rst`.

use super::plain::{from_bytes, to_bytes};
use super::thread::Reply;
use super::{Control, Target};
use crate::abi::sys::{self, ublksrv_ctrl_cmd, ublksrv_ctrl_dev_info};
use crate::abi::{Params, control_op as op};
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::features::Features;
use crate::mapping::FileMapping;
use std::io;
use std::mem::size_of;

/// "No id": the driver picks one.
const ANY_ID: u32 = u32::MAX;
/// "Not about a queue."
const NO_QUEUE: u16 = u16::MAX;

impl Control {
    /// What the driver can do (`GET_FEATURES`, 6.5).
    pub fn features(&self, bound: &Bound) -> Result<Features> {
        let request = Request::new("GET_FEATURES", op::GET_FEATURES, ANY_ID);
        let bytes = self.send(request, &[0; 8], bound)?;
        Ok(Features(u64::from_ne_bytes(bytes[..8].try_into().unwrap_or_default())))
    }

    /// Adds a device. The driver completes `info`: id, clamped queues, rounded buffer size, flags kept.
    pub fn add(&self, info: &ublksrv_ctrl_dev_info, bound: &Bound) -> Result<ublksrv_ctrl_dev_info> {
        let request = Request::new("ADD_DEV", op::ADD_DEV, info.dev_id);
        self.send(request, &to_bytes(info), bound).map(|bytes| from_bytes(&bytes))
    }

    /// Removes a device and waits until its id is free. Waits for `/dev/ublkcN` to be closed by its server.
    pub fn delete(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        self.plain(Request::new("DEL_DEV", op::DEL_DEV, device), bound)
    }

    /// Removes a device; its id becomes free when the last reference goes (6.5).
    pub fn delete_async(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        self.plain(Request::new("DEL_DEV_ASYNC", op::DEL_DEV_ASYNC, device), bound)
    }

    /// Makes the disk appear. Completes only when every tag of every queue has been fetched.
    pub fn start(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        self.plain(Request::new("START_DEV", op::START_DEV, device).data(own_pid()), bound)
    }

    /// Removes the disk; its users get errors. The server's commands complete with `ENODEV`.
    pub fn stop(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        self.plain(Request::new("STOP_DEV", op::STOP_DEV, device), bound)
    }

    /// As [`stop`](Self::stop), without a limit of time: `watch` is called again and again while the driver waits for the
    /// disk's requests. If it fails, that is the result, and the command continues in the kernel.
    pub fn stop_watched(
        &self,
        device: impl Into<Target>,
        bound: &Bound,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.watched(Request::new("STOP_DEV", op::STOP_DEV, device), bound, watch)
    }

    /// The same for [`try_stop`](Self::try_stop).
    pub fn try_stop_watched(
        &self,
        device: impl Into<Target>,
        bound: &Bound,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.watched(Request::new("TRY_STOP_DEV", op::TRY_STOP_DEV, device), bound, watch)
    }

    /// The same for [`delete`](Self::delete).
    pub fn delete_watched(
        &self,
        device: impl Into<Target>,
        bound: &Bound,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.watched(Request::new("DEL_DEV", op::DEL_DEV, device), bound, watch)
    }

    /// As [`stop`](Self::stop), but refused with `EBUSY` while the disk is open anywhere (7.0).
    #[cfg(feature = "testing")]
    pub fn try_stop(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        self.plain(Request::new("TRY_STOP_DEV", op::TRY_STOP_DEV, device), bound)
    }

    /// Sets the disk's parameters; only before it was started.
    pub fn set_params(&self, device: impl Into<Target>, params: &Params, bound: &Bound) -> Result<()> {
        let request = Request::new("SET_PARAMS", op::SET_PARAMS, device);
        self.send(request, &to_bytes(params), bound).map(drop)
    }

    /// The disk's parameters.
    pub fn params(&self, device: impl Into<Target>, bound: &Bound) -> Result<Params> {
        let request = Request::new("GET_PARAMS", op::GET_PARAMS, device);
        let asked = Params { len: Params::LENGTH, ..Default::default() };
        self.send(request, &to_bytes(&asked), bound).map(|bytes| from_bytes(&bytes))
    }

    /// The device as the driver sees it.
    pub fn info(&self, id: u32, bound: &Bound) -> Result<ublksrv_ctrl_dev_info> {
        let ask = |name, op, device| {
            let empty = to_bytes(&ublksrv_ctrl_dev_info::default());
            self.send(Request::new(name, op, device), &empty, bound).map(|bytes| from_bytes(&bytes))
        };
        // The newer command (6.3) works for devices of all users, but the caller has to name the node.
        let named = Target { id, by_path: true };
        match ask("GET_DEV_INFO2", op::GET_DEV_INFO2, named) {
            Err(error) if error.errno == Some(libc::ENODEV) => Err(error),
            // No such node here: a container's /dev need not have it.
            Err(error) => ask("GET_DEV_INFO", op::GET_DEV_INFO, id.into())
                .map_err(|other| if other.kind == ErrorKind::NotFound { other } else { error }),
            answer => answer,
        }
    }

    /// The CPUs whose requests a queue carries, as a bit mask in native-endian longs.
    pub fn affinity(&self, device: impl Into<Target>, queue: u16, bound: &Bound) -> Result<Box<[u8]>> {
        let request =
            Request::new("GET_QUEUE_AFFINITY", op::GET_QUEUE_AFFINITY, device).data(u64::from(queue));
        self.send(request, &[0; size_of::<libc::cpu_set_t>()], bound)
    }

    /// Begins to take over a device whose server has ended (6.1).
    pub fn start_recovery(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        self.plain(Request::new("START_USER_RECOVERY", op::START_USER_RECOVERY, device), bound)
    }

    /// Ends it: completes when this process has fetched every tag (6.1).
    pub fn end_recovery(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        let request = Request::new("END_USER_RECOVERY", op::END_USER_RECOVERY, device);
        self.plain(request.data(own_pid()), bound)
    }

    /// Gives a live disk a new size in bytes (6.16).
    pub fn update_size(&self, device: impl Into<Target>, size: u64, bound: &Bound) -> Result<()> {
        let sectors = size / crate::abi::SECTOR;
        self.plain(Request::new("UPDATE_SIZE", op::UPDATE_SIZE, device).data(sectors), bound)
    }

    /// Quiesces a live device, so that another server can take it over (6.16).
    pub fn quiesce(&self, device: impl Into<Target>, bound: &Bound) -> Result<()> {
        let limit = u64::try_from(bound.timeout.as_millis()).unwrap_or(u64::MAX);
        self.plain(Request::new("QUIESCE_DEV", op::QUIESCE_DEV, device).data(limit), bound)
    }

    /// Pins memory of this process that clients of the device share, and returns the driver's number for it (7.1). Waits
    /// until no request is under way.
    pub fn register_memory(
        &self,
        device: impl Into<Target>,
        memory: &FileMapping,
        bound: &Bound,
    ) -> Result<u16> {
        let about = sys::ublk_shmem_buf_reg {
            addr: memory.address(0) as u64,
            len: memory.length() as u64,
            ..Default::default()
        };
        let request = Request::new("REG_BUF", op::REG_BUF, device);
        self.send_for(request, &to_bytes(&about), bound).and_then(|(number, _)| memory_number(number))
    }

    /// Unregisters this memory (7.1). Waits until no request is in flight.
    pub fn unregister_memory(&self, device: impl Into<Target>, number: u16, bound: &Bound) -> Result<()> {
        self.plain(Request::new("UNREG_BUF", op::UNREG_BUF, device).data(number.into()), bound)
    }

    fn plain(&self, request: Request, bound: &Bound) -> Result<()> {
        self.send(request, &[], bound).map(drop)
    }

    /// Sends a command with the payload that its address points to, and returns the payload as the driver changed it.
    fn send(&self, request: Request, payload: &[u8], bound: &Bound) -> Result<Box<[u8]>> {
        self.send_for(request, payload, bound).map(|(_, bytes)| bytes)
    }

    /// As [`send`](Self::send), with the number that the command results in.
    fn send_for(&self, request: Request, payload: &[u8], bound: &Bound) -> Result<(i32, Box<[u8]>)> {
        let path = request.path();
        let buffer = [path.as_bytes(), payload].concat();
        let (result, buffer) =
            request.outcome(self.call(request.op, request.header(), buffer, bound), bound)?;
        Ok((result, buffer[path.len()..].into()))
    }

    /// Sends a command whose address points to nothing but the device's path, and has no limit of time.
    fn watched(&self, request: Request, bound: &Bound, watch: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let path = request.path().into_bytes();
        let reply = self.call_watched(request.op, request.header(), path, bound, watch)?;
        request.outcome(reply, bound).map(drop)
    }
}

/// The driver's number for shared memory, from the result of REG_BUF.
fn memory_number(result: i32) -> Result<u16> {
    u16::try_from(result).map_err(|_| {
        Error::new(ErrorKind::System, format!("the driver numbers shared memory {result}, beyond 65535"))
    })
}

struct Request {
    name: &'static str,
    op: u32,
    device: Target,
    data: u64,
}

impl Request {
    fn new(name: &'static str, op: u32, device: impl Into<Target>) -> Self {
        Self { name, op, device: device.into(), data: 0 }
    }

    fn data(self, data: u64) -> Self {
        Self { data, ..self }
    }

    /// The device's path, which precedes the payload.
    fn path(&self) -> String {
        if self.device.by_path { format!("/dev/ublkc{}", self.device.id) } else { String::new() }
    }

    fn header(&self) -> ublksrv_ctrl_cmd {
        ublksrv_ctrl_cmd {
            dev_id: self.device.id,
            queue_id: NO_QUEUE,
            data: [self.data],
            dev_path_len: u16::try_from(self.path().len()).unwrap_or(u16::MAX),
            ..Default::default()
        }
    }

    fn outcome(&self, reply: Reply, bound: &Bound) -> Result<(i32, Vec<u8>)> {
        let (name, id) = (self.name, self.device.id);
        let about =
            |error: Error| Error { command: Some(name), device: (id != ANY_ID).then_some(id), ..error };
        match reply {
            Reply::Done(result, buffer) if result >= 0 => Ok((result, buffer)),
            Reply::Done(result, _) => Err(about(failure(name, id, -result))),
            Reply::TimedOut => Err(about(
                Error::new(
                    ErrorKind::Timeout,
                    format!("{name} took longer than {:.1} s", bound.timeout.as_secs_f64()),
                )
                .hint(
                    Hint::from("the driver may wait for the device's server or users").by(Remedy::Diagnose),
                ),
            )),
            Reply::Cancelled => Err(about(Error::new(ErrorKind::Cancelled, format!("{name} was cancelled")))),
            Reply::Broken(error) => Err(about(error)),
        }
    }
}

fn own_pid() -> u64 {
    u64::from(std::process::id())
}

/// What lets a user do it.
const AS_ROOT: &str = "run it as root (sudo), or as the user who made the device";

/// What an error number means for a command.
fn failure(name: &'static str, id: u32, errno: i32) -> Error {
    let failed = Error::system(format!("{name} failed"), &io::Error::from_raw_os_error(errno));
    let say = |kind, message: String| Error { message, ..failed.clone().kind(kind) };
    match (name, errno) {
        ("ADD_DEV", libc::EEXIST) => say(ErrorKind::Exists, format!("device {id} exists already"))
            .hint("leave the id out and the driver picks a free one"),
        ("ADD_DEV", libc::EACCES) => say(ErrorKind::Limit, "the driver's limit of devices is reached".into())
            .hint("delete one, or raise the module parameter ublks_max (default 64)"),
        ("ADD_DEV" | "SET_PARAMS", libc::EINVAL) => failed
            .kind(ErrorKind::Unsupported)
            .hint(Hint::from("this kernel's driver refuses the combination").by(Remedy::Features)),
        ("GET_FEATURES", libc::EOPNOTSUPP | libc::EINVAL | libc::ENODEV) => {
            failed.kind(ErrorKind::Unsupported).hint("Linux 6.5 or newer is needed")
        }
        // The second is about the node that a command names: it goes with its device.
        (_, libc::ENODEV | libc::ENOENT) => say(ErrorKind::NotFound, format!("there is no ublk device {id}"))
            .hint(Hint::from("choose one that exists").by(Remedy::List)),
        (_, libc::EACCES | libc::EPERM) => failed.kind(ErrorKind::NoPermission).hint(AS_ROOT),
        (_, libc::EBUSY) => failed.kind(ErrorKind::Busy),
        (_, libc::EOPNOTSUPP) => failed
            .kind(ErrorKind::Unsupported)
            .hint(Hint::from("a newer kernel is needed").by(Remedy::Features)),
        _ => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_failures_say_what_to_do() {
        assert_eq!(failure("ADD_DEV", 3, libc::EEXIST).kind, ErrorKind::Exists);
        assert_eq!(failure("ADD_DEV", ANY_ID, libc::EACCES).kind, ErrorKind::Limit);
        let missing = failure("STOP_DEV", 9, libc::ENODEV);
        assert_eq!((missing.kind, missing.errno), (ErrorKind::NotFound, Some(libc::ENODEV)));
        assert_eq!(missing.message, "there is no ublk device 9");
        assert!(failure("ADD_DEV", 0, libc::EPERM).hint.is_some());
    }

    #[test]
    fn a_number_of_shared_memory_that_does_not_fit_is_refused() {
        assert_eq!(memory_number(65535).ok(), Some(65535));
        let error = memory_number(65536).unwrap_err();
        assert_eq!(error.message, "the driver numbers shared memory 65536, beyond 65535");
    }
}
