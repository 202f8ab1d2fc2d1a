//! The user of a socket's peer, which Node does not provide.

use crate::number::whole;
use napi_derive::napi;
use std::mem::size_of_val;

/// The user of the process that connected to a Unix socket, at that time; null if `fd` is not such a socket.
#[napi]
pub fn peer_uid(fd: f64) -> Option<u32> {
    let fd = whole::<i32>("fd", fd).ok()?;
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&peer)).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes of plain numbers into `peer`; a wrong descriptor fails.
    let failed = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length)
    };
    // For other sockets the kernel gives no user. (A process in another PID namespace has a user, but no number.)
    (failed == 0 && peer.uid != libc::uid_t::MAX).then_some(peer.uid)
}
