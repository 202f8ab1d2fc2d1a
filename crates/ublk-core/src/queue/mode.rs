//! Transport and copy mode of a device. They are fixed when the device is created.

use crate::abi::sys;
use crate::features::Features;
use std::fmt;

/// How requests come from the driver, and answers go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Transport {
    /// Each tag has its own command, which answers a request and waits for the next one.
    #[default]
    PerIo,
    /// One command answers many requests, and one waits for all new ones (`UBLK_F_BATCH_IO`, 7.0).
    Batch,
}

/// How a request's data gets to the server and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CopyMode {
    /// The driver copies between the request's pages and the tag's buffer.
    #[default]
    Copy,
    /// The server copies through `/dev/ublkcN`, directly from or to its own memory (`UBLK_F_USER_COPY`, 6.5).
    User,
    /// No copy: operations in the ring use the request's own pages (`UBLK_F_AUTO_BUF_REG`, 6.16).
    Zero,
}

/// Transport and copy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// How requests travel.
    pub transport: Transport,
    /// How their data travels.
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
