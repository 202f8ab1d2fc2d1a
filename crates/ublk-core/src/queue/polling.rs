//! Busy-polling for more work before sleeping. A queue that just had work often gets more within microseconds, which then
//! needs no wake-up; but if none arrives, polling wastes CPU time. So polls that find nothing become rare: after each, twice as
//! many turns pass without one. An idle queue has no turns, and so does not poll.

use super::ring::{Ring, Wait};
use crate::error::Result;
use crate::telemetry::clock;
use std::time::Duration;

/// The maximum number of turns with work that pass without a poll.
const RAREST: u32 = 256;

/// See the [module](self).
pub struct Polling {
    /// How long a poll may take, in ticks; 0: no polling.
    limit: u64,
    /// There was work, and no sleep since.
    eager: bool,
    /// How many turns still pass without a poll.
    skip: u32,
    /// How many turns will pass without one after the next poll that finds nothing.
    next_skip: u32,
}

impl Polling {
    /// Polls take at most `limit`.
    pub fn new(limit: Duration) -> Self {
        let ticks = if limit.is_zero() { 0.0 } else { limit.as_nanos() as f64 / clock().nanos_per_tick() };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, and saturating"
        )]
        let limit = ticks as u64;
        Self { limit, eager: false, skip: 0, next_skip: 1 }
    }

    /// Polls for completions, beside the `sure` ones, unless polling is rare now; returns whether it found some. Submits pushed
    /// entries first.
    #[inline]
    pub fn look(&mut self, ring: &mut Ring, wait: Wait, sure: u32) -> Result<bool> {
        if wait != Wait::Forever || !self.is_time() {
            return Ok(false);
        }
        let (found, in_time) = self.spin(ring, sure as usize)?;
        self.looked(found && in_time);
        Ok(found)
    }

    /// Whether it found something and was not preempted meanwhile. If it was, another thread needs this processor, perhaps the
    /// sender of requests.
    fn spin(&self, ring: &mut Ring, sure: usize) -> Result<(bool, bool)> {
        ring.enter(Wait::No, 0)?;
        let clock = clock();
        let until = clock.now() + self.limit;
        loop {
            let (found, in_time) = (ring.ready() > sure, clock.now() < until);
            if found || !in_time {
                return Ok((found, in_time));
            }
            if ring.pending() {
                ring.enter(Wait::No, 0)?; // that is what completes it
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Whether this turn polls.
    fn is_time(&mut self) -> bool {
        if self.limit == 0 || !self.eager {
            return false;
        }
        let looks = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        looks
    }

    fn looked(&mut self, found: bool) {
        if found {
            self.next_skip = 1;
        } else {
            (self.skip, self.next_skip) = (self.next_skip, (self.next_skip * 2).min(RAREST));
        }
    }

    /// A turn is over. `found`: it did not sleep; `work`: it brought some. (What it found may only have been about answers.)
    #[inline]
    pub fn turned(&mut self, found: bool, work: bool) {
        self.eager = work || self.eager && found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polling() -> Polling {
        Polling::new(Duration::from_micros(50))
    }

    /// Of this number of turns that bring work, those that poll. Each poll finds something if `finds`.
    fn looks(polling: &mut Polling, turns: u32, finds: bool) -> u32 {
        let mut looks = 0;
        for _ in 0..turns {
            polling.turned(false, true);
            if polling.is_time() {
                looks += 1;
                polling.looked(finds);
            }
        }
        looks
    }

    #[test]
    fn looks_that_find_nothing_become_rare_and_one_that_finds_something_brings_them_back() {
        let mut polling = polling();
        assert_eq!(looks(&mut polling, 1000, true), 1000);
        assert_eq!(looks(&mut polling, 1000, false), 11);
        let rare = looks(&mut polling, 100 * RAREST, false);
        assert!((99..=100).contains(&rare), "{rare}");
        looks(&mut polling, RAREST, true);
        assert_eq!(looks(&mut polling, 1000, true), 1000);
    }

    #[test]
    fn nobody_looks_without_work_since_the_last_sleep() {
        let mut polling = polling();
        assert!(!polling.is_time());
        polling.turned(false, true);
        polling.turned(true, false);
        assert!(polling.is_time());
        polling.turned(false, false);
        assert!(!polling.is_time());
    }

    #[test]
    fn nobody_looks_who_was_not_asked_to() {
        let mut polling = Polling::new(Duration::ZERO);
        assert_eq!(looks(&mut polling, 10, true), 0);
    }
}
