//! Locks a process in memory (mlockall), which Node does not offer.

use crate::task::raised;
use napi::{Env, Result};
use napi_derive::napi;
use ublk_core::Error;

/// Locks this process's pages in memory, and those that it touches later. Reserved address space, of which V8 has many
/// gigabytes, takes no memory.
#[napi]
pub fn lock_memory(env: &Env) -> Result<()> {
    // SAFETY: plain numbers.
    let failed = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if failed == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    let error = Error::system("cannot lock the server's memory", &error)
        .hint("root may; others raise the limit of locked memory (`ulimit -l`)");
    Err(raised(env, &error))
}
