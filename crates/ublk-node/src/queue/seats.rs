//! Seats on their way from the thread that starts a device to the threads that will serve it, by number: only
//! numbers travel between JavaScript's threads.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use ublk_core::device::PendingQueue;

#[derive(Default)]
struct Seats {
    last: u32,
    free: HashMap<u32, PendingQueue>,
}

static SEATS: LazyLock<Mutex<Seats>> = LazyLock::new(Mutex::default);

fn seats() -> MutexGuard<'static, Seats> {
    SEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seats that wait to be claimed. Those that nobody has claimed when this is dropped are withdrawn.
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
            let mut seats = seats();
            self.0.iter().filter_map(|number| seats.free.remove(number)).collect()
        };
        // Outside the lock: a seat tells its device.
        drop(withdrawn);
    }
}

/// Numbers seats, for [`claim`].
pub fn hand_out(handed: Vec<PendingQueue>) -> Offer {
    let mut seats = seats();
    let numbers = handed.into_iter().map(|seat| {
        seats.last = seats.last.wrapping_add(1);
        let number = seats.last;
        seats.free.insert(number, seat);
        number
    });
    Offer(numbers.collect())
}

/// The seat of that number, once.
pub fn claim(number: u32) -> Option<PendingQueue> {
    seats().free.remove(&number)
}
