//! Opens the log of a process again, which Node cannot: it has no dup2.

use crate::task::raised;
use napi::{Env, Result};
use napi_derive::napi;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use ublk_core::Error;

/// Has standard error, and standard output if that is the same file, go on in the file at `path`, which is created if it does not
/// exist.
#[napi]
pub fn reopen_stderr(env: &Env, path: String) -> Result<()> {
    reopen(&path).map_err(|error| raised(env, &Error::system(format!("cannot log to {path}"), &error)))
}

fn reopen(path: &str) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let both = identity(1).ok() == identity(2).ok();
    for fd in if both { [1, 2].as_slice() } else { &[2] } {
        // SAFETY: plain numbers; what was open at `fd` is closed, and nothing owns it.
        if unsafe { libc::dup2(file.as_raw_fd(), *fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn identity(fd: i32) -> io::Result<(u64, u64)> {
    let entry = fs::metadata(format!("/proc/self/fd/{fd}"))?;
    Ok((entry.dev(), entry.ino()))
}
