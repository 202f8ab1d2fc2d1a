//! The commands, typed. Their numbers and meanings: `Documentation/block/ublk.rst`.

use super::thread::Reply;
use super::{Bound, Control};
use crate::abi::control_op as op;
use crate::abi::sys::{self, ublk_params, ublksrv_ctrl_cmd, ublksrv_ctrl_dev_info};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use std::io;
use std::mem::size_of;

/// "No id": the driver picks one.
const ANY_ID: u32 = u32::MAX;
/// "Not about a queue."
const NO_QUEUE: u16 = u16::MAX;

impl Control {
    /// What the driver can do (`GET_FEATURES`, 6.5).
    pub fn features(&self, bound: &Bound) -> Result<Features> {
        let request =
            Request { name: "GET_FEATURES", op: op::GET_FEATURES, id: ANY_ID, queue: NO_QUEUE, data: 0 };
        let bytes = self.send(request, vec![0; 8].into(), bound)?.1;
        Ok(Features(u64::from_ne_bytes(bytes[..8].try_into().unwrap_or_default())))
    }

    /// Adds a device. The driver completes `info`: id, clamped queues, rounded buffer size, flags kept.
    pub fn add(&self, info: &ublksrv_ctrl_dev_info, bound: &Bound) -> Result<ublksrv_ctrl_dev_info> {
        let request = Request { name: "ADD_DEV", op: op::ADD_DEV, id: info.dev_id, queue: NO_QUEUE, data: 0 };
        self.send(request, to_bytes(info), bound).map(|(_, bytes)| from_bytes(&bytes))
    }

    /// Removes a device and waits until its id is free. Waits for `/dev/ublkcN` to be closed by its server.
    pub fn delete(&self, id: u32, bound: &Bound) -> Result<()> {
        self.plain("DEL_DEV", op::DEL_DEV, id, 0, bound)
    }

    /// Removes a device; its id becomes free when the last reference goes (6.5).
    pub fn delete_async(&self, id: u32, bound: &Bound) -> Result<()> {
        self.plain("DEL_DEV_ASYNC", op::DEL_DEV_ASYNC, id, 0, bound)
    }

    /// Makes the disk appear. Completes only when every tag of every queue has been fetched.
    pub fn start(&self, id: u32, bound: &Bound) -> Result<()> {
        self.plain("START_DEV", op::START_DEV, id, u64::from(std::process::id()), bound)
    }

    /// Makes the disk disappear; its users get errors. The server's tags come back with `ENODEV`.
    pub fn stop(&self, id: u32, bound: &Bound) -> Result<()> {
        self.plain("STOP_DEV", op::STOP_DEV, id, 0, bound)
    }

    /// As [`stop`](Self::stop), but refused with `EBUSY` while anybody has the disk open (7.0).
    pub fn try_stop(&self, id: u32, bound: &Bound) -> Result<()> {
        self.plain("TRY_STOP_DEV", op::TRY_STOP_DEV, id, 0, bound)
    }

    /// Sets what the disk looks like; only before it was started.
    pub fn set_params(&self, id: u32, params: &ublk_params, bound: &Bound) -> Result<()> {
        let request = Request { name: "SET_PARAMS", op: op::SET_PARAMS, id, queue: NO_QUEUE, data: 0 };
        self.send(request, to_bytes(params), bound).map(drop)
    }

    /// What the disk looks like.
    pub fn params(&self, id: u32, bound: &Bound) -> Result<ublk_params> {
        let request = Request { name: "GET_PARAMS", op: op::GET_PARAMS, id, queue: NO_QUEUE, data: 0 };
        let asked = ublk_params { len: size_of::<ublk_params>() as u32, ..Default::default() };
        self.send(request, to_bytes(&asked), bound).map(|(_, bytes)| from_bytes(&bytes))
    }

    /// The device as the driver sees it.
    pub fn info(&self, id: u32, bound: &Bound) -> Result<ublksrv_ctrl_dev_info> {
        let request = Request { name: "GET_DEV_INFO", op: op::GET_DEV_INFO, id, queue: NO_QUEUE, data: 0 };
        let empty = to_bytes(&ublksrv_ctrl_dev_info::default());
        self.send(request, empty, bound).map(|(_, bytes)| from_bytes(&bytes))
    }

    /// The CPUs whose requests a queue carries, as a bit mask in native-endian longs.
    pub fn affinity(&self, id: u32, queue: u16, bound: &Bound) -> Result<Box<[u8]>> {
        let request = Request {
            name: "GET_QUEUE_AFFINITY",
            op: op::GET_QUEUE_AFFINITY,
            id,
            queue: NO_QUEUE,
            data: u64::from(queue),
        };
        let mask = vec![0; size_of::<libc::cpu_set_t>()].into();
        self.send(request, mask, bound).map(|(_, bytes)| bytes)
    }

    /// Begins to take a device over from a server that is gone (6.1).
    pub fn start_recovery(&self, id: u32, bound: &Bound) -> Result<()> {
        self.plain("START_USER_RECOVERY", op::START_USER_RECOVERY, id, 0, bound)
    }

    /// Ends it: completes when this process has fetched every tag (6.1).
    pub fn end_recovery(&self, id: u32, bound: &Bound) -> Result<()> {
        self.plain("END_USER_RECOVERY", op::END_USER_RECOVERY, id, u64::from(std::process::id()), bound)
    }

    /// Gives a live disk a new size in bytes (6.16).
    pub fn update_size(&self, id: u32, size: u64, bound: &Bound) -> Result<()> {
        self.plain("UPDATE_SIZE", op::UPDATE_SIZE, id, size / crate::abi::SECTOR, bound)
    }

    /// Frees a live device from its server, which another can then replace (6.16).
    pub fn quiesce(&self, id: u32, bound: &Bound) -> Result<()> {
        let limit = u64::try_from(bound.timeout.as_millis()).unwrap_or(u64::MAX);
        self.plain("QUIESCE_DEV", op::QUIESCE_DEV, id, limit, bound)
    }

    fn plain(&self, name: &'static str, op: u32, id: u32, data: u64, bound: &Bound) -> Result<()> {
        self.send(Request { name, op, id, queue: NO_QUEUE, data }, Box::default(), bound).map(drop)
    }

    fn send(&self, request: Request, buffer: Box<[u8]>, bound: &Bound) -> Result<(i32, Box<[u8]>)> {
        let Request { name, op, id, queue, data } = request;
        let header = ublksrv_ctrl_cmd { dev_id: id, queue_id: queue, data: [data], ..Default::default() };
        let about =
            |error: Error| Error { command: Some(name), device: (id != ANY_ID).then_some(id), ..error };
        match self.call(op, header, buffer, bound) {
            Reply::Done(result, buffer) if result >= 0 => Ok((result, buffer)),
            Reply::Done(result, _) => Err(about(failure(name, id, -result))),
            Reply::TimedOut => Err(about(
                Error::new(
                    ErrorKind::Timeout,
                    format!("{name} took longer than {:.1} s", bound.timeout.as_secs_f64()),
                )
                .hint(
                    "the driver may wait for the device's server or users; `ublk-ts doctor` looks for them",
                ),
            )),
            Reply::Cancelled => Err(about(Error::new(ErrorKind::Cancelled, format!("{name} was cancelled")))),
            Reply::Broken(error) => Err(about(error)),
        }
    }
}

struct Request {
    name: &'static str,
    op: u32,
    id: u32,
    queue: u16,
    data: u64,
}

/// What an error number means for a command.
fn failure(name: &'static str, id: u32, errno: i32) -> Error {
    let failed = Error::system(format!("{name} failed"), &io::Error::from_raw_os_error(errno));
    let say = |kind, message: String| Error { message, ..failed.clone().kind(kind) };
    match (name, errno) {
        ("ADD_DEV", libc::EEXIST) => say(ErrorKind::Exists, format!("device {id} exists already"))
            .hint("leave the id out and the driver picks a free one"),
        ("ADD_DEV", libc::EACCES) => say(ErrorKind::Limit, "the driver's limit of devices is reached".into())
            .hint("delete one, or raise the module parameter ublks_max (default 64)"),
        ("ADD_DEV", libc::EPERM) => failed.kind(ErrorKind::NoPermission).hint("run it as root (sudo)"),
        ("ADD_DEV" | "SET_PARAMS", libc::EINVAL) => failed
            .kind(ErrorKind::Unsupported)
            .hint("this kernel's driver refuses the combination; see `ublk-ts features`"),
        ("GET_FEATURES", libc::EOPNOTSUPP | libc::EINVAL | libc::ENODEV) => {
            failed.kind(ErrorKind::Unsupported).hint("Linux 6.5 or newer is needed")
        }
        (_, libc::ENODEV) => say(ErrorKind::NotFound, format!("there is no ublk device {id}"))
            .hint("`ublk-ts list` shows them"),
        (_, libc::EACCES | libc::EPERM) => failed.kind(ErrorKind::NoPermission).hint("run it as root (sudo)"),
        (_, libc::EBUSY) => failed.kind(ErrorKind::Busy),
        (_, libc::EOPNOTSUPP) => {
            failed.kind(ErrorKind::Unsupported).hint("a newer kernel is needed; see `ublk-ts features`")
        }
        _ => failed,
    }
}

/// A plain structure of the kernel's header.
trait Plain: Copy + Default {}
impl Plain for sys::ublksrv_ctrl_dev_info {}
impl Plain for sys::ublk_params {}

fn to_bytes<T: Plain>(value: &T) -> Box<[u8]> {
    let mut bytes = vec![0; size_of::<T>()].into_boxed_slice();
    // SAFETY: a Plain type is a C structure of integers without padding that matters, copied byte by byte.
    unsafe {
        std::ptr::from_ref(value).cast::<u8>().copy_to_nonoverlapping(bytes.as_mut_ptr(), size_of::<T>())
    };
    bytes
}

fn from_bytes<T: Plain>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>());
    // SAFETY: long enough by the assertion, every bit pattern is a value of a Plain type, and unaligned is allowed.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
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
}
