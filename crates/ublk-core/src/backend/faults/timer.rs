//! Lets requests go on at a time, on a thread that exists while some wait.

use crate::backend::{Completer, Token};
use crate::io_flusher::IoFlusher;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The thread ends when nothing has waited for this long.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Waiting {
    /// By the time at which they go on; the number keeps the order of equal ones.
    calls: BTreeMap<(Instant, u64), (Completer, Token)>,
    next: u64,
    running: bool,
}

/// See the [module](self).
#[derive(Default)]
pub struct Timer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer {
    /// Completes a call at that time. `false`: there is no thread for it.
    pub fn at(&self, time: Instant, completer: Completer, token: Token) -> bool {
        let mut waiting = self.0.lock();
        if !waiting.running {
            let shared = self.0.clone();
            let thread = thread::Builder::new().name("ublk-delays".into()).stack_size(256 << 10);
            if thread.spawn(move || shared.run()).is_err() {
                return false;
            }
            waiting.running = true;
        }
        let number = waiting.next;
        waiting.next += 1;
        let first = waiting.calls.first_key_value().is_none_or(|((first, _), _)| time < *first);
        waiting.calls.insert((time, number), (completer, token));
        drop(waiting);
        if first {
            self.0.changed.notify_one();
        }
        true
    }

    /// Completes all calls now. Returns how many there were.
    pub fn end_all(&self) -> usize {
        let calls = std::mem::take(&mut self.0.lock().calls);
        let count = calls.len();
        for (completer, token) in calls.into_values() {
            completer.complete(token, 0);
        }
        count
    }
}

impl Shared {
    fn run(&self) {
        let _flusher = IoFlusher::new(); // if it cannot be one, it is a thread like that of any other program
        sleep_exactly();
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            while let Some(first) = waiting.calls.first_entry().filter(|first| first.key().0 <= now) {
                let (completer, token) = first.remove();
                completer.complete(token, 0);
            }
            let next = waiting.calls.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now));
            let (woken, timeout) = self
                .changed
                .wait_timeout(waiting, next.unwrap_or(IDLE))
                .unwrap_or_else(PoisonError::into_inner);
            waiting = woken;
            if next.is_none() && timeout.timed_out() && waiting.calls.is_empty() {
                waiting.running = false;
                return;
            }
        }
    }
}

/// Has the kernel wake this thread when it asked for it: by default it may be 50 µs later.
fn sleep_exactly() {
    // SAFETY: plain numbers. If it fails, the thread wakes somewhat later.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}
