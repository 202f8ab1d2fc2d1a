//! Where a map was written: the part of it that was never synced counts only there.

use super::mount;
use std::fs::File;
use std::io;

/// A boot, and a mount of the file's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The boot's id, as text.
    pub boot: [u8; 36],
    /// See [`mount::of`]; 0 if unknown.
    pub place: u64,
}

impl Stamp {
    /// Matches no boot.
    pub const NEVER: Self = Self { boot: [0; 36], place: 0 };

    /// This boot, and the mount that the file is on.
    pub fn now(file: &File) -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot = text.trim().as_bytes().try_into().map_err(|_| io::Error::other("the boot has no id"))?;
        Ok(Self { boot, place: mount::of(file) })
    }

    /// Whether the page cache or medium still has all that was written under that stamp.
    pub fn vouches(&self, now: &Self) -> bool {
        self.boot == now.boot && (self.place == now.place || self.place == 0)
    }
}
