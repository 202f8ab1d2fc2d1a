//! What a lost connection had under way. A server that was only stopped, or slow, still has these requests, and does them when it
//! goes on: a write of them that it does after a newer one of the same sector, which came on a new connection, undoes that. So
//! nothing is sent on a new connection before the server has closed the old ones. It does that when it has read the end of
//! them, which is behind all requests: nbdkit and nbd-server when they have done these, QEMU while it may be doing the last.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The lost connections whose server has not closed them. Nobody else uses them.
#[derive(Default)]
pub struct Old(Vec<Arc<OwnedFd>>);

impl Old {
    /// Tells the server that nothing follows on this connection; what it sends is still taken.
    pub fn add(&mut self, socket: &Arc<OwnedFd>) {
        shut(socket, libc::SHUT_WR);
        self.0.push(socket.clone());
    }

    /// Waits until the server has closed all of them, but not longer than that. Whether it has.
    pub fn closed(&mut self, until: Instant) -> bool {
        self.0.retain(|socket| !closed(socket, until));
        self.0.is_empty()
    }

    /// Waits for them no more: the server may be gone without a word.
    pub fn give_up(&mut self) {
        for socket in self.0.drain(..) {
            let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
            #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
            let length = size_of::<libc::linger>() as libc::socklen_t;
            // What is not sent yet must not arrive later: over TCP that is thrown away when it is closed.
            // SAFETY: an open socket, and a value that the call only reads.
            unsafe {
                let value = (&raw const at_once).cast();
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, length);
            }
            shut(&socket, libc::SHUT_RDWR);
        }
    }
}

/// What is in the ring for the socket ends, if it is shut in that direction.
pub fn shut(socket: &OwnedFd, how: i32) {
    // SAFETY: an open socket.
    unsafe { libc::shutdown(socket.as_raw_fd(), how) };
}

fn closed(socket: &OwnedFd, until: Instant) -> bool {
    let mut passed = [0_u8; 16 << 10];
    loop {
        // SAFETY: an open socket, and room for as many bytes.
        let come = unsafe {
            libc::recv(socket.as_raw_fd(), passed.as_mut_ptr().cast(), passed.len(), libc::MSG_DONTWAIT)
        };
        if come > 0 {
            if Instant::now() >= until {
                return false;
            }
            continue;
        }
        let waits = matches!(io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
        if come == 0 || !waits {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(left.min(Duration::from_secs(1)).as_millis()).unwrap_or(0).max(1);
        // SAFETY: one entry.
        unsafe { libc::poll(&raw mut poll, 1, millis) };
    }
}
