//! Somebody looks at what is recorded while the disk is in use, and may cut the power because of that.
//!
//! The disk does not wait for that: what has to be looked at is in the log.

use super::Recorder;
use super::log::{Completed, Moment};

/// Looked at at once, at most.
const AT_ONCE: usize = 4096;

/// See the [module](self).
pub struct Watch {
    /// Says that there is something new. Called with the state locked.
    tell: Box<dyn Fn() + Send>,
    /// It was said since somebody looked.
    told: bool,
    /// What was completed before is known.
    from: Moment,
}

impl Watch {
    pub fn new(tell: Box<dyn Fn() + Send>, from: Moment) -> Self {
        Self { tell, told: false, from }
    }

    /// Something was completed.
    pub fn tell(&mut self) {
        if !self.told {
            self.told = true;
            (self.tell)();
        }
    }
}

impl Recorder {
    /// Calls `tell` when requests were answered that [`watched`](Self::watched) has not returned yet, once, until the power is off;
    /// while it is off, once it is on again. It takes the place of an [event](Self::cut_at).
    pub fn watch(&self, tell: Box<dyn Fn() + Send>) {
        let mut state = self.state();
        let from = state.log.now();
        (state.trigger, state.watch) = (None, Some(Watch::new(tell, from)));
    }

    /// The next writes, discards, write-zeroes and flushes, in the order in which they were answered. None: it is told when there
    /// are others.
    pub fn watched(&self) -> Vec<Completed> {
        let mut state = self.state();
        let state = &mut *state;
        let Some(watch) = &mut state.watch else { return Vec::new() };
        let completed = state.log.completed_since(watch.from, AT_ONCE);
        match completed.last() {
            Some(last) => watch.from = last.at + 1,
            None => watch.told = false,
        }
        completed
    }

    /// Switches the power off: from here on no request is answered without an error. What is left is chosen by a
    /// [cut](Self::cut).
    pub fn switch_off_now(&self) {
        let mut state = self.state();
        if !self.is_off() {
            self.switch_off(&mut state);
        }
    }
}
