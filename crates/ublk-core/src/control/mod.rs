//! The control plane: every command of `/dev/ublk-control`, typed, each wait bounded and cancellable.
//!
//! One thread per process owns the control ring; callers block on it, never on the kernel. A command whose
//! bound runs out is cancelled, and its buffer is kept until the kernel has completed it. The thread, and with it the open
//! control device, which keeps the module loaded, ends with the last [`Control`].

mod commands;
mod plain;
mod thread;

pub use thread::Control;

use crate::abi::sys::{self, ublksrv_ctrl_dev_info};

/// The name of a device in commands. An ordinary user's device is also named by its node, by which the driver checks the
/// caller's permission; this holds for root, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The driver's number.
    pub id: u32,
    /// Whether its node has to be named (`UBLK_F_UNPRIVILEGED_DEV`).
    pub by_path: bool,
}

impl Target {
    /// The device that the driver has described.
    pub fn of(info: &ublksrv_ctrl_dev_info) -> Self {
        Self { id: info.dev_id, by_path: info.flags & u64::from(sys::UBLK_F_UNPRIVILEGED_DEV) != 0 }
    }
}

/// A device of root's.
impl From<u32> for Target {
    fn from(id: u32) -> Self {
        Self { id, by_path: false }
    }
}
