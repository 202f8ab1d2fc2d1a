//! Data that goes through the tag's buffer, although the driver does not take it from there.

use super::Io;
use crate::queue::{CopyMode, Errno, Op, Piece};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

impl Io<'_> {
    /// Serves the request as if the driver had copied its data into the tag's buffer, or copied it from there: what goes between
    /// them is the caller's.
    pub(crate) fn copied<T>(&mut self, serve: impl FnOnce(&mut Self) -> T) -> T {
        let copy = std::mem::replace(&mut self.data.copy, CopyMode::Copy);
        // The other requests of the queue are not copied, though this one's engine panics.
        let served = catch_unwind(AssertUnwindSafe(|| serve(self)));
        self.data.copy = copy;
        served.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Whether its data is in memory shared with the client.
    pub(crate) fn is_shared(&self) -> bool {
        self.request.what.shared.is_some()
    }

    /// Copies the data of a piece between the tag's buffer and a file in memory, at that offset of the file: out of the buffer, or
    /// `into` it.
    pub(crate) fn move_bounced(
        &mut self,
        file: BorrowedFd<'_>,
        piece: &Piece,
        offset: u64,
        into: bool,
    ) -> Result<(), Errno> {
        let op = if into { Op::Read } else { Op::Write };
        let (data, length) = self.buffer(piece);
        // SAFETY: `length` bytes at `data` are the tag's buffer, which no reference sees.
        unsafe { move_at(file, op, data, length, offset) }
    }
}

/// Reads a file into memory, or writes memory to it, at once.
///
/// # Safety
/// `length` bytes at `data` are valid, and no reference to them exists.
pub(super) unsafe fn move_at(
    file: BorrowedFd<'_>,
    op: Op,
    data: *mut u8,
    length: usize,
    offset: u64,
) -> Result<(), Errno> {
    let mut done = 0;
    while done < length {
        let at = (offset + done as u64).cast_signed();
        // SAFETY: within the memory, by the caller's promise.
        let moved = unsafe {
            let (data, left) = (data.add(done).cast(), length - done);
            match op {
                Op::Write => libc::pwrite(file.as_raw_fd(), data, left, at),
                _ => libc::pread(file.as_raw_fd(), data, left, at),
            }
        };
        match usize::try_from(moved) {
            Ok(0) => return Err(libc::EIO),
            Ok(moved) => done += moved,
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                errno => return Err(errno.unwrap_or(libc::EIO)),
            },
        }
    }
    Ok(())
}
