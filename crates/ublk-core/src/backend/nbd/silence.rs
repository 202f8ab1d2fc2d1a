//! A server that keeps a connection and does not answer: it is stopped, hangs, or the way to it swallows everything. One clock for
//! each connection finds that out, which runs only while something is under way.

use crate::error::Result;
use crate::queue::{Key, LineIo};
use std::time::Duration;

/// The key of the clock.
pub const TICK: Key = 2;

/// How often the clock ticks in the time for which a server may be silent.
const TICKS: u32 = 4;

/// See the [module](self).
pub struct Silence {
    period: Duration,
    running: bool,
    /// Something has come since the last tick.
    heard: bool,
    /// Ticks without that, while something was under way.
    silent: u32,
}

impl Silence {
    /// For a server that may be silent for so long.
    pub fn new(limit: Duration) -> Self {
        Self { period: limit / TICKS, running: false, heard: false, silent: 0 }
    }

    /// Something is under way.
    #[inline]
    pub fn watch(&mut self, io: &mut LineIo<'_>) -> Result<()> {
        if self.running {
            return Ok(());
        }
        io.after(self.period, TICK)?;
        self.running = true;
        Ok(())
    }

    /// The server has given a sign of life.
    #[inline]
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// The clock has ticked. Whether the server was silent for too long: the first of the ticks may have come just after the
    /// request, so it takes one more.
    pub fn passed(&mut self, under_way: bool) -> bool {
        let heard = std::mem::take(&mut self.heard);
        self.running = false;
        self.silent = if under_way && !heard { self.silent + 1 } else { 0 };
        let too_long = self.silent > TICKS;
        if too_long {
            self.silent = 0;
        }
        too_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_silent_only_after_its_whole_time_without_a_sign() {
        let mut silence = Silence::new(Duration::from_secs(4));
        for _ in 0..4 {
            assert!(!silence.passed(true));
        }
        silence.heard();
        for _ in 0..5 {
            assert!(!silence.passed(true));
        }
        assert!(!silence.passed(false), "nothing is under way");
        for _ in 0..4 {
            assert!(!silence.passed(true));
        }
        assert!(silence.passed(true));
        assert!(!silence.passed(true), "it is another connection's time");
    }
}
