//! Memory mappings, unmapped when dropped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A mapping of this process's own.
pub struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread. What is done with its bytes is its user's matter.
unsafe impl Send for Mapping {}
// SAFETY: as above: it hands out only an address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `length` bytes of zeroes. A page exists from its first write on; only those count against memory.
    pub fn anonymous(length: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::map(length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    }

    /// `length` bytes of `file` from `offset` on, shared and read-only.
    pub fn read_only(file: BorrowedFd<'_>, offset: usize, length: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(length, libc::PROT_READ, flags, file.as_raw_fd(), offset as libc::off_t)
    }

    /// `length` bytes of `file` from `offset` on, shared and writable.
    pub fn shared(file: impl AsFd, offset: usize, length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(length, protection, flags, file.as_fd().as_raw_fd(), offset as libc::off_t)
    }

    fn map(length: usize, protection: i32, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a fresh mapping where the kernel likes; nothing else refers to it.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, offset) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base_ptr) if base != libc::MAP_FAILED => Ok(Self { base: base_ptr, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The address of byte `at`, which has to lie within it or right behind it.
    pub fn at(&self, at: usize) -> *mut u8 {
        assert!(at <= self.length);
        // SAFETY: in bounds by the assertion.
        unsafe { self.base.as_ptr().add(at) }
    }

    /// Gives the pages of a range back to the system: they read as zeroes. Both ends on page boundaries.
    pub fn give_back(&self, from: usize, to: usize) -> io::Result<()> {
        match self.advise_of(from, to, libc::MADV_DONTNEED) {
            // That is not for locked ones.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.advise_of(from, to, libc::MADV_DONTNEED_LOCKED)
            }
            done => done,
        }
    }

    /// Tells the system something of all its pages.
    pub(crate) fn advise(&self, advice: i32) -> io::Result<()> {
        self.advise_of(0, self.length, advice)
    }

    fn advise_of(&self, from: usize, to: usize, advice: i32) -> io::Result<()> {
        assert!(from <= to && to <= self.length);
        // SAFETY: within the mapping by the assertion; its users hold no references to bytes, only addresses.
        done(unsafe { libc::madvise(self.at(from).cast(), to - from, advice) })
    }

    /// Has all its pages in memory from now on.
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: changes where the pages are, not what they hold.
        done(unsafe { libc::mlock(self.base.as_ptr().cast(), self.length) })
    }

    /// They may be anywhere again.
    pub(crate) fn unlock(&self) -> io::Result<()> {
        // SAFETY: as above.
        done(unsafe { libc::munlock(self.base.as_ptr().cast(), self.length) })
    }
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what map() mapped; whoever got an address of it lives no longer than it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
