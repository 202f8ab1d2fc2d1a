//! In what order fetches begin: those that requests wait for first, but those of the background are not kept waiting for ever.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many that requests wait for may pass the oldest one of the background.
const MOST_PASSES: u32 = 3;

/// See the [module](self).
pub struct Turns<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Condvar,
}

struct Waiting<T> {
    wanted: VecDeque<T>,
    background: VecDeque<T>,
    /// How many have passed the oldest one of the background.
    passes: u32,
    ended: bool,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        let (wanted, background) = (VecDeque::new(), VecDeque::new());
        let waiting = Mutex::new(Waiting { wanted, background, passes: 0, ended: false });
        Self { waiting, changed: Condvar::new() }
    }
}

impl<T> Turns<T> {
    /// Adds one. After the end it is dropped.
    pub fn add(&self, one: T, background: bool) {
        let mut waiting = self.lock();
        if waiting.ended {
            drop(waiting);
            return drop(one); // outside the lock
        }
        if background {
            waiting.background.push_back(one)
        } else {
            waiting.wanted.push_back(one)
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Drops all, and all to come.
    pub fn end(&self) {
        let mut waiting = self.lock();
        waiting.ended = true;
        let left = [std::mem::take(&mut waiting.wanted), std::mem::take(&mut waiting.background)];
        drop(waiting);
        self.changed.notify_all();
        drop(left); // outside the lock
    }

    /// Waits for the next one; `None`: it is over.
    pub fn next(&self) -> Option<T> {
        let waiting = self.changed.wait_while(self.lock(), |waiting| {
            !waiting.ended && waiting.wanted.is_empty() && waiting.background.is_empty()
        });
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let passed = !waiting.background.is_empty();
        if passed && (waiting.wanted.is_empty() || waiting.passes >= MOST_PASSES) {
            waiting.passes = 0;
            return waiting.background.pop_front();
        }
        waiting.passes = if passed { waiting.passes + 1 } else { 0 };
        waiting.wanted.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_wait_for_passes_the_background_which_gets_its_turn() {
        let turns = Turns::default();
        (1..4).for_each(|one| turns.add(one, true));
        (4..11).for_each(|one| turns.add(one, false));
        let order: Vec<u32> = (0..10).filter_map(|_| turns.next()).collect();
        assert_eq!(order, [4, 5, 6, 1, 7, 8, 9, 2, 10, 3]);
    }

    #[test]
    fn the_end_drops_what_waits_and_what_comes_and_wakes_who_waits() {
        let (turns, one) = (Turns::default(), std::sync::Arc::new(()));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| turns.next());
            std::thread::sleep(std::time::Duration::from_millis(20));
            turns.end();
            assert!(waits.join().unwrap().is_none());
        });
        turns.add(one.clone(), false);
        assert_eq!(std::sync::Arc::strong_count(&one), 1);
        assert!(turns.next().is_none());
    }
}
