//! Copies of clusters that are not at one place in a file, such as compressed ones: in a file in memory, from which the ring
//! reads them like any other.

use super::table::{Entry, Grace, Table};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The index of this file among those of a chain.
pub const FILE: usize = 63;

/// Bytes: what all copies take up at most.
const MOST: u64 = 32 << 20;

/// Its first half is used again when the second is full, and the other way round.
pub struct Scratch {
    file: Arc<File>,
    unit: u64,
    half: usize,
    /// Which cluster of the disk is in each place.
    owners: Vec<Option<u64>>,
    next: usize,
}

impl Scratch {
    /// With room for clusters of `unit` bytes.
    pub fn new(unit: u64) -> io::Result<Self> {
        // SAFETY: a name that ends with zero, and flags.
        let fd = unsafe { libc::memfd_create(c"ublk-qcow2".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        let file = Arc::new(File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        let half = usize::try_from((MOST / unit / 2).clamp(8, 4096)).unwrap_or(8);
        Ok(Self { file, unit, half, owners: vec![None; 2 * half], next: 0 })
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Keeps a copy of the cluster at `offset` of the disk, and says in the table where it is.
    pub fn put(&mut self, offset: u64, data: &[u8], table: &Table, grace: &Grace) -> io::Result<()> {
        if self.next.is_multiple_of(self.half) {
            let mut any = false;
            for owner in self.owners[self.next..self.next + self.half].iter_mut() {
                let Some(offset) = owner.take() else { continue };
                let entry = table.get(offset);
                if entry.is_known() && entry.file() == FILE && !entry.is_zeroes() {
                    table.clear(offset, offset + 1);
                }
                any = true;
            }
            if any && !grace.wait() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let at = self.next as u64 * self.unit;
        self.file.write_all_at(data, at)?;
        let Some(entry) = Entry::at(FILE, at, false) else { return Err(io::ErrorKind::InvalidInput.into()) };
        if !table.set(offset, entry) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.owners[self.next] = Some(offset);
        self.next = (self.next + 1) % self.owners.len();
        Ok(())
    }
}
