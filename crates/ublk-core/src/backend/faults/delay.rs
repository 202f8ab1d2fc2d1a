//! How long requests take.

use crate::backend::numbers::{fraction, mixed};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A distribution of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// Each time between these two is equally likely.
    Uniform(Duration, Duration),
    /// Around a mean, with a standard deviation: within six deviations, and never below 0.
    Normal(Duration, Duration),
}

impl Delay {
    /// The time that a number stands for.
    pub fn drawn(&self, number: u64) -> Duration {
        match *self {
            Self::Fixed(time) => time,
            Self::Uniform(least, most) => least + most.saturating_sub(least).mul_f64(fraction(number)),
            Self::Normal(mean, deviation) => {
                // The sum of twelve even ones is as good as normal, and the same on every machine.
                let sum: f64 = (1..=12).map(|at| fraction(mixed(number.wrapping_add(at)))).sum();
                let away = deviation.mul_f64((sum - 6.0).abs());
                if sum < 6.0 { mean.saturating_sub(away) } else { mean + away }
            }
        }
    }
}

/// Lets one thing after the other pass, in nanoseconds of a clock that begins at 0.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// When something passes that comes `now` and takes this time. `ahead`: how much time may be saved up.
    pub fn passes(&self, now: u64, takes: u64, ahead: u64) -> u64 {
        let after = |free: u64| free.max(now).saturating_add(takes);
        let update = self.0.fetch_update(Relaxed, Relaxed, |free| Some(after(free)));
        let (Ok(free) | Err(free)) = update;
        after(free).saturating_sub(ahead).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn times(delay: Delay) -> Vec<Duration> {
        (0..10_000).map(|number| delay.drawn(mixed(number))).collect()
    }

    #[test]
    fn times_are_distributed_as_asked_for() {
        assert!(times(Delay::Fixed(MS)).iter().all(|time| *time == MS));

        let even = times(Delay::Uniform(MS, 3 * MS));
        assert!(even.iter().all(|time| (MS..3 * MS).contains(time)));
        let early = even.iter().filter(|time| **time < 2 * MS).count();
        assert!((4_800..5_200).contains(&early), "{early}");

        let normal = times(Delay::Normal(10 * MS, 2 * MS));
        let mean = normal.iter().sum::<Duration>() / 10_000;
        assert!((9_900..10_100).contains(&mean.as_micros()), "{mean:?}");
        let near = normal.iter().filter(|time| (8 * MS..12 * MS).contains(time)).count();
        assert!((6_600..7_060).contains(&near), "68 % are within one deviation: {near}");
        assert!(times(Delay::Normal(MS, 10 * MS)).contains(&Duration::ZERO));
    }

    #[test]
    fn what_takes_its_time_passes_one_after_the_other() {
        let pace = Pace::default();
        assert_eq!(pace.passes(100, 10, 0), 110);
        assert_eq!(pace.passes(100, 10, 0), 120);
        assert_eq!(pace.passes(500, 10, 0), 510);
    }

    #[test]
    fn what_was_saved_up_passes_at_once() {
        let pace = Pace::default();
        let passes: Vec<_> = (0..5).map(|_| pace.passes(1000, 10, 30)).collect();
        assert_eq!(passes, [1000, 1000, 1000, 1010, 1020]);
        assert_eq!(pace.passes(1035, 10, 30), 1035, "of the 35 that passed, 20 were owed");
        assert_eq!(pace.passes(1035, 10, 30), 1040);
    }
}
