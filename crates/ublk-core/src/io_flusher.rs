//! Marks threads that serve a disk as I/O flushers.

use crate::error::{Error, Result};
use std::cell::Cell;
use std::marker::PhantomData;

/// `linux/prctl.h`, since 5.6; the libc crate does not have them.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const PR_GET_IO_FLUSHER: libc::c_int = 58;

/// Tells the kernel whether this thread serves a disk: its allocations must not wait for that disk.
pub fn become_io_flusher() -> Result<()> {
    set(true).or_else(|error| match error.raw_os_error() {
        // Needs CAP_SYS_RESOURCE. Without it the thread allocates like that of any other program.
        Some(libc::EPERM) => Ok(()),
        _ => Err(Error::system("cannot become an I/O flusher", &error)),
    })
}

thread_local! {
    /// How many [`IoFlusher`]s this thread has, and whether it was a flusher before the first of them.
    static FLUSHERS: Cell<(u32, bool)> = const { Cell::new((0, false)) };
}

/// Makes this thread an I/O flusher until the last of its `IoFlusher`s is dropped: a thread that serves a disk for a while,
/// such as a program's main thread, is then what it was before. The flag is the thread's own, hence not `Send`.
pub(crate) struct IoFlusher(PhantomData<*const ()>);

impl IoFlusher {
    pub fn new() -> Result<Self> {
        let (count, before) = FLUSHERS.get();
        let before = if count == 0 { is_io_flusher() } else { before };
        become_io_flusher()?;
        FLUSHERS.set((count + 1, before));
        Ok(Self(PhantomData))
    }
}

impl Drop for IoFlusher {
    fn drop(&mut self) {
        let (count, before) = FLUSHERS.get();
        FLUSHERS.set((count - 1, before));
        if count == 1 && !before {
            let _ = set(false); // fails only if set(true) failed, too: the thread is no flusher
        }
    }
}

fn is_io_flusher() -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1 }
}

fn set(on: bool) -> std::io::Result<()> {
    // SAFETY: plain numbers.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, libc::c_ulong::from(on), 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_an_io_flusher_until_its_last_queue_is_left() {
        let root = set(true).is_ok(); // otherwise there is nothing to test
        let _ = set(false);
        let (first, second) = (IoFlusher::new().unwrap(), IoFlusher::new().unwrap());
        assert_eq!(is_io_flusher(), root);
        drop(first);
        assert_eq!(is_io_flusher(), root);
        drop(second);
        assert!(!is_io_flusher());
    }

    #[test]
    fn a_thread_that_was_an_io_flusher_before_stays_one() {
        let root = set(true).is_ok();
        drop(IoFlusher::new().unwrap());
        assert_eq!(is_io_flusher(), root);
        let _ = set(false);
    }
}
