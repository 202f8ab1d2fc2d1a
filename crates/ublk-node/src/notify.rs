//! Messages to systemd: Node has no Unix datagram sockets.

use napi_derive::napi;

/// Sends lines such as `READY=1` to the socket that `NOTIFY_SOCKET` in the environment names, if it does. That nobody
/// listens there is no failure of ours.
#[napi]
pub fn notify_systemd(lines: String) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Custom(&lines)]);
}
