//! How much of a file system is left to the writes of the disks in it, while a flatten or a commit copies into it: these would
//! fail when it is full.

use crate::error::{Error, ErrorKind};
use std::fs::File;

/// The most that is left free.
const MOST_MARGIN: u64 = 1 << 30;

/// What is left free of a file system of that size.
fn margin(size: u64) -> u64 {
    (size / 20).min(MOST_MARGIN)
}

/// A file system has too little room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLittle {
    /// In MiB.
    free: u64,
    /// In MiB.
    margin: u64,
}

/// Whether the file system of a file has no room for that many bytes and the writes of the disks.
pub fn too_little(file: &File, bytes: u64) -> Option<TooLittle> {
    let found = nix::sys::statvfs::fstatvfs(file).ok()?;
    let unit = found.fragment_size();
    judge(found.blocks() * unit, found.blocks_available() * unit, bytes)
}

fn judge(size: u64, free: u64, bytes: u64) -> Option<TooLittle> {
    let margin = margin(size);
    // Some file systems have no limit, or do not say it.
    let fits = size == 0 || free >= margin + bytes;
    (!fits).then_some(TooLittle { free: free >> 20, margin: margin >> 20 })
}

impl TooLittle {
    /// `what` is the file. `again`: what to do when there is room.
    pub fn error(self, what: &str, again: &str) -> Error {
        let Self { free, margin } = self;
        let message = format!(
            "the file system of {what} has only {free} MiB left, which are for what is written to the disk"
        );
        let error = Error { errno: Some(libc::ENOSPC), ..Error::new(ErrorKind::Backend, message) };
        error.hint(format!("make room for what is missing and {margin} MiB more, and {again}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_of_a_file_system_is_left_free_and_at_most_a_gib() {
        const MIB: u64 = 1 << 20;
        assert_eq!(judge(2000 * MIB, 101 * MIB, MIB), None);
        let little = judge(2000 * MIB, 101 * MIB - 1, MIB).unwrap();
        assert_eq!(little, TooLittle { free: 100, margin: 100 });
        let error = little.error("the upper a", "flatten it again");
        assert_eq!(error.errno, Some(libc::ENOSPC));
        assert_eq!(
            error.message,
            "the file system of the upper a has only 100 MiB left, which are for what is written to the disk"
        );
        assert_eq!(judge(1 << 50, 1025 * MIB, MIB), None);
        assert!(judge(1 << 50, 1024 * MIB, MIB).is_some());
        assert_eq!(judge(0, 0, MIB), None);
    }
}
