//! Whose a process at the other end of a socket is: Node does not say.

use crate::number::whole;
use napi_derive::napi;
use std::mem::size_of_val;

/// The user of the process that connected to a Unix socket, as of then; null if `fd` is no such socket.
#[napi]
pub fn peer_uid(fd: f64) -> Option<u32> {
    let fd = whole::<i32>("fd", fd).ok()?;
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&peer)).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes of plain numbers into `peer`; a wrong descriptor fails.
    let failed = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut length)
    };
    // Of other sockets the kernel gives no user. (A process in another PID namespace has no number, but a user.)
    (failed == 0 && peer.uid != libc::uid_t::MAX).then_some(peer.uid)
}
