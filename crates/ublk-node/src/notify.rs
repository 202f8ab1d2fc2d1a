//! Messages to systemd: Node has no Unix datagram sockets.

use napi_derive::napi;

/// Sends lines such as `READY=1` to the socket in the environment variable `NOTIFY_SOCKET`, if it is set. A missing listener is
/// not a failure.
#[napi]
pub fn notify_systemd(lines: String) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Custom(&lines)]);
}
