//! The clock of service times: cheap to read, in its own ticks. They are converted to nanoseconds only when they are read.
//!
//! It reads the processor's counter if that is reliable, which takes a few nanoseconds; reading the system's clock may be a
//! system call.

use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// See the [module](self).
#[derive(Debug)]
pub struct Clock {
    source: Source,
    made: Reading,
    nanos_per_tick: OnceLock<f64>,
}

/// The clock of this process. Making it waits for nothing.
pub fn clock() -> &'static Clock {
    static CLOCK: LazyLock<Clock> = LazyLock::new(|| Clock::of(Source::best()));
    &CLOCK
}

impl Clock {
    fn of(source: Source) -> Self {
        Self { source, made: Reading::take(source), nanos_per_tick: OnceLock::new() }
    }

    /// Ticks since some moment in the past.
    #[inline]
    pub fn now(&self) -> u64 {
        self.source.ticks()
    }

    /// Nanoseconds in a tick: the same for as long as the process lives. The first to ask may have to wait some
    /// milliseconds if the clock is younger than that, since the longer it was watched the better it is known.
    pub fn nanos_per_tick(&self) -> f64 {
        *self.nanos_per_tick.get_or_init(|| match self.source {
            Source::System => 1.0,
            Source::Counter => counter::hertz().map_or_else(|| self.measure(), |hertz| 1e9 / hertz),
        })
    }

    /// Compares the counter with the system's clock.
    fn measure(&self) -> f64 {
        if let Some(rest) = LEAST_WATCH.checked_sub(self.made.at.elapsed()) {
            std::thread::sleep(rest);
        }
        let now = Reading::take(self.source);
        let nanos = now.at.duration_since(self.made.at).as_nanos();
        nanos as f64 / now.ticks.saturating_sub(self.made.ticks).max(1) as f64
    }
}

/// How long the clock is watched at least. A reading is exact to the time of a system call, which is a thousandth.
const LEAST_WATCH: Duration = Duration::from_millis(20);

/// Makes times of the clock's ticks.
#[non_exhaustive]
pub struct Times {
    /// The clock's reading now.
    ticks: u64,
    /// The same moment, in nanoseconds since 1970.
    nanos: f64,
    nanos_per_tick: f64,
}

impl Times {
    /// As it is now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = clock();
        Self { ticks: clock.now(), nanos: since.as_nanos() as f64, nanos_per_tick: clock.nanos_per_tick() }
    }

    /// When `ticks` were read, in nanoseconds since 1970.
    pub fn date(&self, ticks: u64) -> f64 {
        self.nanos - self.nanos_of(self.ticks.saturating_sub(ticks))
    }

    /// How long `ticks` take, in nanoseconds.
    pub fn nanos_of(&self, ticks: u64) -> f64 {
        ticks as f64 * self.nanos_per_tick
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The processor's counter.
    Counter,
    /// The system's clock, whose ticks are nanoseconds.
    System,
}

impl Source {
    fn best() -> Self {
        // Miri has no time-stamp counter.
        if !cfg!(miri) && counter::steady() { Self::Counter } else { Self::System }
    }

    #[inline]
    fn ticks(self) -> u64 {
        match self {
            Self::Counter => counter::read(),
            Self::System => system_nanos(),
        }
    }
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ticks: u64,
    at: Instant,
}

impl Reading {
    /// The tightest of a few: a thread can lose its processor between two clocks.
    fn take(source: Source) -> Self {
        let once = || {
            let (before, at, after) = (source.ticks(), Instant::now(), source.ticks());
            let width = after.saturating_sub(before);
            (width, Self { ticks: before + width / 2, at })
        };
        (0..2).map(|_| once()).fold(once(), |best, next| if next.0 < best.0 { next } else { best }).1
    }
}

fn system_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // newer compilers know that these are safe
mod counter {
    use std::arch::x86_64::{__cpuid, _rdtsc};

    /// Whether it counts at one rate whatever the processor does ("invariant TSC").
    pub fn steady() -> bool {
        const ADVANCED: u32 = 0x8000_0007;
        // SAFETY: every x86-64 has the instruction, and leaf 0x8000_0000 of it, which says which others there are.
        unsafe { __cpuid(0x8000_0000).eax >= ADVANCED && __cpuid(ADVANCED).edx & (1 << 8) != 0 }
    }

    #[inline]
    pub fn read() -> u64 {
        // SAFETY: every x86-64 has the instruction.
        unsafe { _rdtsc() }
    }

    /// Not told reliably: it is measured.
    pub fn hertz() -> Option<f64> {
        None
    }
}

#[cfg(target_arch = "aarch64")]
mod counter {
    use std::arch::asm;

    /// The architecture promises it.
    pub fn steady() -> bool {
        hertz().is_some()
    }

    #[inline]
    pub fn read() -> u64 {
        let ticks: u64;
        // SAFETY: reads a register that Linux lets programs read.
        unsafe { asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
        ticks
    }

    /// As the firmware set it.
    pub fn hertz() -> Option<f64> {
        let hertz: u64;
        // SAFETY: as above.
        unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
        (hertz > 0).then_some(hertz as f64)
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod counter {
    pub fn steady() -> bool {
        false
    }

    pub fn read() -> u64 {
        super::system_nanos()
    }

    pub fn hertz() -> Option<f64> {
        Some(1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures a pause with the clock, and within and around it with the system's.
    fn agrees_with_the_system(clock: &Clock) {
        let (outer, from, inner) = (Instant::now(), clock.now(), Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        let (inner, to, outer) = (inner.elapsed(), clock.now(), outer.elapsed());
        let measured = (to - from) as f64 * clock.nanos_per_tick();
        assert!(measured >= inner.as_nanos() as f64 * 0.99, "{measured} ns is less than {inner:?}");
        assert!(measured <= outer.as_nanos() as f64 * 1.01, "{measured} ns is more than {outer:?}");
    }

    #[test]
    fn its_ticks_make_the_systems_nanoseconds() {
        agrees_with_the_system(clock());
    }

    #[test]
    fn a_clock_that_was_just_made_is_as_exact() {
        agrees_with_the_system(&Clock::of(Source::best()));
    }

    #[test]
    fn where_the_processors_counter_is_no_use_the_systems_clock_is_read() {
        agrees_with_the_system(&Clock::of(Source::System));
    }

    #[test]
    fn a_tick_stays_as_long_as_it_is() {
        assert_eq!(clock().nanos_per_tick(), clock().nanos_per_tick());
    }
}
