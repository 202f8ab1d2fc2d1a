//! Memory mappings, unmapped when dropped.

use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Miri supports neither this flag nor madvise(2).
const NO_RESERVE: i32 = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };

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
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | NO_RESERVE;
        Self::map(length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    }

    /// `length` bytes of `file` from `offset` on, shared and read-only. Only for a device, whose memory cannot be
    /// truncated: for other files there is [`FileMapping`].
    pub fn read_only(file: BorrowedFd<'_>, offset: usize, length: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(length, libc::PROT_READ, flags, file.as_raw_fd(), offset.cast_signed() as libc::off_t)
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
        if cfg!(miri) {
            if advice == libc::MADV_DONTNEED {
                // SAFETY: as below.
                unsafe { self.at(from).write_bytes(0, to - from) };
            }
            return Ok(());
        }
        // SAFETY: within the mapping by the assertion; its users hold no references to bytes, only addresses.
        done(unsafe { libc::madvise(self.at(from).cast(), to - from, advice) })
    }

    /// Has all its pages in memory from now on.
    pub(crate) fn lock(&self) -> io::Result<()> {
        if cfg!(miri) {
            return Ok(());
        }
        // SAFETY: changes where the pages are, not what they hold.
        done(unsafe { libc::mlock(self.base.as_ptr().cast(), self.length) })
    }

    /// They may be anywhere again.
    pub(crate) fn unlock(&self) -> io::Result<()> {
        if cfg!(miri) {
            return Ok(());
        }
        // SAFETY: as above.
        done(unsafe { libc::munlock(self.base.as_ptr().cast(), self.length) })
    }
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that map() mapped; no user of an address in it outlives this mapping.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// A mapping of a file that other processes may write to or truncate at any time. Accessing a truncated page would end
/// the process (SIGBUS). So it gives addresses only to the kernel, and copies by system calls, which fail with EFAULT
/// instead; unless the file is sealed, so that nobody can truncate it.
pub struct FileMapping {
    mapping: Mapping,
    /// The process that it belongs to.
    process: libc::pid_t,
    sealed: bool,
}

impl FileMapping {
    /// The first `length` bytes of `file`, shared and writable. Its pages are allocated now.
    pub fn new(file: impl AsFd, length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let sealed = is_sealed(file.as_fd(), length);
        let mapping = Mapping::map(length, protection, flags, file.as_fd().as_raw_fd(), 0)?;
        // SAFETY: only asks for a number.
        Ok(Self { mapping, process: unsafe { libc::getpid() }, sealed })
    }

    /// Its length in bytes, even if the file was truncated since.
    pub fn length(&self) -> usize {
        self.mapping.length()
    }

    /// Whether the file is sealed: its pages are always there, and may be copied without a system call.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The address of byte `at`, only for system calls and ring operations, which fail with EFAULT beyond the end of
    /// the file; or for copies by raw pointers if the file is [sealed](Self::is_sealed).
    pub fn address(&self, at: usize) -> *mut u8 {
        self.mapping.at(at)
    }

    /// Copies `length` bytes from byte `at` on to `memory`. EFAULT if the file was truncated; a part may have been
    /// copied then.
    ///
    /// # Safety
    /// `memory` is valid for `length` bytes, and no reference to it exists.
    pub unsafe fn read(&self, at: usize, memory: *mut u8, length: usize) -> io::Result<()> {
        let (here, there) = self.vectors(at, memory, length);
        // SAFETY: the kernel checks both sides; the caller ensures that `memory` is valid.
        copied(
            unsafe { libc::process_vm_readv(self.process, &raw const here, 1, &raw const there, 1, 0) },
            length,
        )
    }

    /// Copies `length` bytes from `memory` to byte `at` and on, as [`read`](Self::read).
    ///
    /// # Safety
    /// `memory` is valid for `length` bytes.
    pub unsafe fn write(&self, at: usize, memory: *const u8, length: usize) -> io::Result<()> {
        let (here, there) = self.vectors(at, memory.cast_mut(), length);
        // SAFETY: as in read(): the memory is only read.
        copied(
            unsafe { libc::process_vm_writev(self.process, &raw const here, 1, &raw const there, 1, 0) },
            length,
        )
    }

    fn vectors(&self, at: usize, memory: *mut u8, length: usize) -> (libc::iovec, libc::iovec) {
        assert!(at.checked_add(length).is_some_and(|end| end <= self.length()));
        let vector = |base: *mut u8| libc::iovec { iov_base: base.cast(), iov_len: length };
        (vector(memory), vector(self.mapping.at(at)))
    }
}

/// Whether nobody can make the file shorter than `length` bytes: a memfd sealed with `F_SEAL_SHRINK`, which cannot be undone.
/// Not in huge pages: a hole that a client punches may leave no page there.
fn is_sealed(file: BorrowedFd<'_>, length: usize) -> bool {
    // SAFETY: only asks for a number.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
        return false;
    }
    let in_memory = fstatfs(file).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
    // After the seals: what it had before does not count.
    in_memory
        && fstat(file).is_ok_and(|file| u64::try_from(file.st_size).is_ok_and(|size| size >= length as u64))
}

/// Turns a partial copy of process_vm_readv or process_vm_writev, which stops at a truncated page, into EFAULT.
fn copied(done: isize, length: usize) -> io::Result<()> {
    match usize::try_from(done) {
        Ok(done) if done == length => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    const PAGE: usize = 4096;

    fn read(mapping: &FileMapping, at: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 2 * PAGE];
        // SAFETY: the vector is as long.
        unsafe { mapping.read(at, bytes.as_mut_ptr(), bytes.len()) }.map(|()| bytes)
    }

    fn write(mapping: &FileMapping, at: usize, byte: u8) -> io::Result<()> {
        let bytes = vec![byte; 2 * PAGE];
        // SAFETY: the vector is as long.
        unsafe { mapping.write(at, bytes.as_ptr(), bytes.len()) }
    }

    #[test]
    fn what_was_cut_off_a_mapped_file_is_an_error_and_the_rest_is_there() {
        for dir in ["/dev/shm", "/tmp"] {
            let file = tempfile::tempfile_in(dir).unwrap();
            file.set_len(16 * PAGE as u64).unwrap();
            let mapping = FileMapping::new(&file, 16 * PAGE).unwrap();
            for (at, byte) in [(0, 1), (5 * PAGE - 1, 2), (14 * PAGE, 3)] {
                write(&mapping, at, byte).unwrap();
                assert!(read(&mapping, at).unwrap().iter().all(|found| *found == byte));
            }
            file.set_len(8 * PAGE as u64).unwrap();
            for at in [7 * PAGE, 8 * PAGE, 14 * PAGE] {
                assert_eq!(read(&mapping, at).unwrap_err().raw_os_error(), Some(libc::EFAULT));
                assert_eq!(write(&mapping, at, 9).unwrap_err().raw_os_error(), Some(libc::EFAULT));
            }
            write(&mapping, 6 * PAGE, 4).unwrap();
            assert!(read(&mapping, 6 * PAGE).unwrap().iter().all(|found| *found == 4));
            assert_eq!(file.metadata().unwrap().len(), 8 * PAGE as u64, "it is not extended again");
        }
    }

    /// A memfd of 16 pages, with these seals.
    fn memfd(flags: u32, seals: i32) -> std::fs::File {
        // SAFETY: a name, and flags.
        let fd = unsafe { libc::memfd_create(c"test".as_ptr(), flags | libc::MFD_ALLOW_SEALING) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: a new descriptor, which nothing else owns.
        let file = unsafe { std::fs::File::from_raw_fd(fd) };
        file.set_len(16 * PAGE as u64).unwrap();
        // SAFETY: only sets flags of the file.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }, 0);
        file
    }

    #[test]
    fn only_a_file_that_nobody_can_truncate_counts_as_sealed() {
        let length = 16 * PAGE;
        let sealed = |file: &std::fs::File, length| FileMapping::new(file, length).unwrap().is_sealed();
        let file = memfd(0, libc::F_SEAL_SHRINK);
        assert!(sealed(&file, length));
        assert_eq!(file.set_len(PAGE as u64).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(!sealed(&file, length + PAGE), "it is shorter than the mapping");
        assert!(!sealed(&memfd(0, 0), length));
        assert!(!sealed(&memfd(0, libc::F_SEAL_GROW | libc::F_SEAL_SEAL), length));
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(length as u64).unwrap();
        assert!(!sealed(&file, length));
    }
}
