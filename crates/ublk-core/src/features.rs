//! What the running kernel's driver can do, as `GET_FEATURES` answers it.

use crate::abi::sys;

/// One feature of the driver.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Feature {
    /// The kernel's name without `UBLK_F_`.
    pub name: &'static str,
    /// Its flag.
    pub flag: u64,
    /// The first kernel release that has it.
    pub since: &'static str,
    /// What it is good for.
    pub summary: &'static str,
}

const fn feature(name: &'static str, flag: u64, since: &'static str, summary: &'static str) -> Feature {
    Feature { name, flag, since, summary }
}

/// `UBLK_F_IO_DESC_SIZE` is newer than the header the sys crate carries.
const IO_DESC_SIZE: u64 = 1 << 20;

/// Every feature we know, in the order of its bit.
pub const FEATURES: &[Feature] = &[
    feature(
        "SUPPORT_ZERO_COPY",
        sys::UBLK_F_SUPPORT_ZERO_COPY as u64,
        "6.15",
        "register a request's pages with a ring",
    ),
    feature(
        "URING_CMD_COMP_IN_TASK",
        sys::UBLK_F_URING_CMD_COMP_IN_TASK as u64,
        "6.0",
        "complete commands in task work",
    ),
    feature(
        "NEED_GET_DATA",
        sys::UBLK_F_NEED_GET_DATA as u64,
        "6.0",
        "ask for a write's data when a buffer is ready",
    ),
    feature("USER_RECOVERY", sys::UBLK_F_USER_RECOVERY as u64, "6.1", "a device outlives its server"),
    feature(
        "USER_RECOVERY_REISSUE",
        sys::UBLK_F_USER_RECOVERY_REISSUE as u64,
        "6.1",
        "requests in flight are sent again after recovery",
    ),
    feature(
        "UNPRIVILEGED_DEV",
        sys::UBLK_F_UNPRIVILEGED_DEV as u64,
        "6.3",
        "devices for users other than root",
    ),
    feature(
        "CMD_IOCTL_ENCODE",
        sys::UBLK_F_CMD_IOCTL_ENCODE as u64,
        "6.4",
        "commands encoded like ioctls (needed)",
    ),
    feature("USER_COPY", sys::UBLK_F_USER_COPY as u64, "6.5", "data read and written through /dev/ublkcN"),
    feature("ZONED", sys::UBLK_F_ZONED as u64, "6.6", "zoned devices"),
    feature(
        "USER_RECOVERY_FAIL_IO",
        sys::UBLK_F_USER_RECOVERY_FAIL_IO as u64,
        "6.13",
        "I/O fails at once while nobody serves",
    ),
    feature("UPDATE_SIZE", sys::UBLK_F_UPDATE_SIZE as u64, "6.16", "resize a live device"),
    feature("AUTO_BUF_REG", sys::UBLK_F_AUTO_BUF_REG as u64, "6.16", "zero copy without extra commands"),
    feature("QUIESCE", sys::UBLK_F_QUIESCE as u64, "6.16", "hand a live device to another server"),
    feature("PER_IO_DAEMON", sys::UBLK_F_PER_IO_DAEMON as u64, "6.16", "several threads serve one queue"),
    feature(
        "BUF_REG_OFF_DAEMON",
        sys::UBLK_F_BUF_REG_OFF_DAEMON as u64,
        "6.17",
        "register buffers from any thread",
    ),
    feature("BATCH_IO", sys::UBLK_F_BATCH_IO as u64, "7.0", "fetch and commit in batches"),
    feature("INTEGRITY", sys::UBLK_F_INTEGRITY as u64, "7.0", "integrity metadata"),
    feature(
        "SAFE_STOP_DEV",
        sys::UBLK_F_SAFE_STOP_DEV as u64,
        "7.0",
        "stop only when nobody has the disk open",
    ),
    feature(
        "NO_AUTO_PART_SCAN",
        sys::UBLK_F_NO_AUTO_PART_SCAN as u64,
        "7.0",
        "start without a partition scan",
    ),
    feature("SHMEM_ZC", sys::UBLK_F_SHMEM_ZC as u64, "7.1", "zero copy through shared memory"),
    feature("IO_DESC_SIZE", IO_DESC_SIZE, "7.3", "larger request descriptors"),
];

/// A set of feature flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// Whether every bit of `flag` is in the set.
    pub fn has(self, flag: u64) -> bool {
        self.0 & flag == flag
    }

    /// The names of the features in the set.
    pub fn names(self) -> Vec<&'static str> {
        FEATURES.iter().filter(|feature| self.has(feature.flag)).map(|feature| feature.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_listed_by_bit_without_a_gap() {
        for (bit, feature) in FEATURES.iter().enumerate() {
            assert_eq!(feature.flag, 1 << bit, "{}", feature.name);
        }
    }
}
