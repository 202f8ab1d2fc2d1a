//! In which of the driver's ways a device's requests and their data travel. Fixed when the device is made.

use crate::abi::sys;
use crate::features::Features;
use std::fmt;

/// How requests come from the driver, and answers go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Every tag has a command of its own, which answers a request and waits for the next.
    #[default]
    PerIo,
    /// One command answers many requests, and one waits for all (`UBLK_F_BATCH_IO`, 7.0).
    Batch,
}

/// How a request's data gets to the server and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyMode {
    /// The driver copies between the request's pages and a buffer of the tag's.
    #[default]
    Copy,
    /// The server copies through `/dev/ublkcN`, straight from or to where the data lies (`UBLK_F_USER_COPY`, 6.5).
    User,
    /// Nobody copies: operations in the ring work on the request's own pages (`UBLK_F_AUTO_BUF_REG`, 6.16).
    Zero,
}

/// Both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// Of requests.
    pub transport: Transport,
    /// Of their data.
    pub copy: CopyMode,
}

impl Transport {
    /// Every one there is.
    pub const ALL: [Self; 2] = [Self::PerIo, Self::Batch];

    /// Its name: `per-io` or `batch`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PerIo => "per-io",
            Self::Batch => "batch",
        }
    }

    /// The flag that a driver needs for it.
    pub const fn flags(self) -> u64 {
        match self {
            Self::PerIo => 0,
            Self::Batch => sys::UBLK_F_BATCH_IO as u64,
        }
    }
}

impl CopyMode {
    /// Every one there is.
    pub const ALL: [Self; 3] = [Self::Copy, Self::User, Self::Zero];

    /// Its name: `copy`, `user` or `zero`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::User => "user",
            Self::Zero => "zero",
        }
    }

    /// The flags that a driver needs for it.
    pub const fn flags(self) -> u64 {
        match self {
            Self::Copy => 0,
            Self::User => sys::UBLK_F_USER_COPY as u64,
            Self::Zero => sys::UBLK_F_AUTO_BUF_REG as u64 | sys::UBLK_F_SUPPORT_ZERO_COPY as u64,
        }
    }
}

impl Mode {
    /// The flags that a driver needs for it.
    pub const fn flags(self) -> u64 {
        self.transport.flags() | self.copy.flags()
    }

    /// How a device with these flags was made.
    pub fn of(flags: Features) -> Self {
        let copy = [CopyMode::Zero, CopyMode::User].into_iter().find(|copy| flags.has(copy.flags()));
        let batch = flags.has(Transport::Batch.flags());
        Self {
            transport: if batch { Transport::Batch } else { Transport::PerIo },
            copy: copy.unwrap_or(CopyMode::Copy),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(self.name())
    }
}

impl fmt::Display for CopyMode {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(self.name())
    }
}
