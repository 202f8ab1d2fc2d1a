//! Whether this process can use io_uring, and why not.

use crate::error::{Error, ErrorKind, Result};
use io_uring::IoUring;
use std::io;

/// Tries whether this process may use io_uring: no file shows that for certain.
pub fn probe() -> Result<()> {
    IoUring::new(1).map(drop).map_err(|error| unusable(&error))
}

/// Explains why io_uring cannot be used. A seccomp filter chooses the error: Docker's returns EPERM, those of Podman
/// and CRI-O return ENOSYS, as a kernel without io_uring does.
pub fn unusable(error: &io::Error) -> Error {
    let failed = Error::system("cannot set up io_uring", error);
    match error.raw_os_error() {
        Some(libc::ENOSYS) => failed.kind(ErrorKind::NoIoUring).hint(
            "either the kernel is built without io_uring (CONFIG_IO_URING), or a seccomp filter hides it: \
             give the container a seccomp profile that allows io_uring, such as unconfined",
        ),
        Some(libc::EPERM) => failed.kind(ErrorKind::NoIoUring).hint(
            "either io_uring is switched off (`sysctl -w kernel.io_uring_disabled=0`), or a seccomp filter forbids it: \
             give the container a seccomp profile that allows io_uring, such as unconfined",
        ),
        Some(libc::ENOMEM) => failed.hint("raise the limit of locked memory (`ulimit -l`)"),
        _ => failed,
    }
}
