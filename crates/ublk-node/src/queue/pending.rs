//! Queues on their way from the thread that starts a device to the threads that will serve it, by number: only
//! numbers travel between JavaScript's threads.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use ublk_core::device::PendingQueue;

#[derive(Default)]
struct Pending {
    last: u32,
    free: HashMap<u32, PendingQueue>,
}

static PENDING: LazyLock<Mutex<Pending>> = LazyLock::new(Mutex::default);

fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues that wait to be claimed. Those that nobody has claimed when this is dropped are withdrawn.
pub struct Offer(Vec<u32>);

impl Offer {
    /// Their numbers, by queue.
    pub fn numbers(&self) -> Vec<u32> {
        self.0.clone()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let withdrawn: Vec<PendingQueue> = {
            let mut pending = pending();
            self.0.iter().filter_map(|number| pending.free.remove(number)).collect()
        };
        // Outside the lock: a queue tells its device.
        drop(withdrawn);
    }
}

/// Numbers queues, for [`claim`].
pub fn hand_out(handed: Vec<PendingQueue>) -> Offer {
    let mut pending = pending();
    let numbers = handed.into_iter().map(|queue| {
        pending.last = pending.last.wrapping_add(1);
        let number = pending.last;
        pending.free.insert(number, queue);
        number
    });
    Offer(numbers.collect())
}

/// The queue of that number, once.
pub fn claim(number: u32) -> Option<PendingQueue> {
    pending().free.remove(&number)
}
