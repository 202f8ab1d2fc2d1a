//! Where an upper's bytes are. A file, or in tests a medium that loses power.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// A sparse file, as far as an upper uses it.
pub trait Medium: Send + Sync + 'static {
    /// Fills `bytes`; fails at the end of the file.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;

    /// Another process of this boot reads them from here on. They are durable after the next [`sync`](Self::sync).
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;

    /// The same as both for these bytes alone: what else was written need not be waited for.
    fn write_durably(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write(bytes, at).and_then(|()| self.sync())
    }

    /// Its length, in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Everything from `from` on becomes a hole, and its length is `length`.
    fn cut(&self, from: u64, length: u64) -> io::Result<()>;

    /// A range becomes a hole. The length stays.
    fn punch(&self, at: u64, length: u64) -> io::Result<()>;

    /// The first part of a range that may hold something else than zeroes.
    fn data(&self, within: Range<u64>) -> io::Result<Option<Range<u64>>>;
}

impl Medium for File {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(bytes, at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn write_durably(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // Not every C library has a function for it.
        // SAFETY: an open descriptor, one buffer that the kernel reads, and plain numbers.
        let written = unsafe {
            let (descriptor, none) = (self.as_raw_fd(), 0_u64);
            libc::syscall(libc::SYS_pwritev2, descriptor, &raw const part, 1, at, none, libc::RWF_DSYNC)
        };
        if usize::try_from(written).is_ok_and(|written| written == bytes.len()) {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS) => {
                self.write(bytes, at).and_then(|()| self.sync())
            }
            _ if written >= 0 => self.write(bytes, at).and_then(|()| self.sync()),
            _ => Err(error),
        }
    }

    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|found| found.len())
    }

    fn cut(&self, from: u64, length: u64) -> io::Result<()> {
        self.set_len(from)?;
        self.set_len(length)
    }

    fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        const HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: plain numbers and an open descriptor.
            if unsafe { libc::fallocate(self.as_raw_fd(), HOLE, at.cast_signed(), length.cast_signed()) } == 0
            {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn data(&self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let seek = |from: u64, whence| {
            // SAFETY: plain numbers and an open descriptor, whose position nobody uses.
            let found = unsafe { libc::lseek(self.as_raw_fd(), from.cast_signed(), whence) };
            if found < 0 { Err(io::Error::last_os_error()) } else { Ok(found.cast_unsigned()) }
        };
        let from = match seek(within.start, libc::SEEK_DATA) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None), // a hole to the end
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Some(within)), // cannot tell
            found => found?,
        };
        if from >= within.end {
            return Ok(None);
        }
        let to = seek(from, libc::SEEK_HOLE)?.min(within.end);
        Ok((from < to).then_some(from..to))
    }
}
