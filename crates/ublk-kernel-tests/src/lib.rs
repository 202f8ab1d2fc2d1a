//! What the kernel tests share: disks served for a test, backends that check, clients, a server by hand.
//!
//! Tests say what is wrong by panicking, wait for nothing without a bound, and never assert a time.

// A number that does not fit is another number, also of a disk that is tested.
#![warn(
    clippy::as_underscore,
    clippy::borrow_as_ptr,
    clippy::cast_lossless,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_ptr_alignment,
    clippy::cast_sign_loss,
    clippy::ptr_as_ptr,
    clippy::ptr_cast_constness,
    clippy::ref_as_ptr
)]

pub mod block;
mod checking;
mod client;
mod disk;
mod exercise;
mod gate;
mod image;
mod process;
mod raw;
mod scripted;
pub mod system;

pub use checking::{Checking, first_wrong, stamp};
pub use client::{Aligned, Transfer, at_once, cpus, on_cpu};
pub use disk::{Disk, Events};
pub use exercise::exercise;
pub use gate::Gate;
pub use image::Image;
pub use process::Beside;
pub use raw::{Command, Fetched, RawDevice, RawQueue};
pub use scripted::{PanicsAgain, Scripted, data};

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest that anything may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Does `what` on another thread, and panics when it hangs.
pub fn within<T: Send + 'static>(what: &str, action: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || sender.send(action()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("{what} hangs"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("the thread sends before it ends"),
        },
    }
}

/// Waits until `ready`, and panics when that never comes.
pub fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Keeps tests that look at the whole process or the whole driver from running beside others.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
