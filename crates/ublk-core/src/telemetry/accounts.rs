//! The queue's account of its requests: when each came, how it was answered, and how long that took. The clock is read
//! twice a turn, not twice a request.

use super::clock::{Clock, clock};
use super::counters::QueueCounters;
use super::trace::{Record, Tracer};
use crate::request::Request;
use std::sync::Arc;

/// See the [module](self).
pub struct Accounts {
    clock: &'static Clock,
    /// When each tag's request came, in ticks.
    came: Box<[u64]>,
    /// What goes out with the next enter. Never more than there are tags.
    answers: Vec<Answer>,
    queue: u16,
    counters: Arc<QueueCounters>,
    tracer: Arc<Tracer>,
}

struct Answer {
    tag: u16,
    result: i32,
    faults: u32,
}

impl Accounts {
    pub fn new(queue: u16, depth: u16, counters: Arc<QueueCounters>, tracer: Arc<Tracer>) -> Self {
        counters.restart();
        Self {
            clock: clock(),
            came: vec![0; depth.into()].into(),
            answers: Vec::with_capacity(depth.into()),
            queue,
            counters,
            tracer,
        }
    }

    /// A request is answered, in the form of the driver. Its tag keeps the request until [`settle`](Self::settle). `faults`: as
    /// in a [`Record`].
    #[inline]
    pub fn answer(&mut self, tag: u16, result: i32, faults: u32) {
        self.answers.push(Answer { tag, result, faults });
    }

    /// The queue is about to enter its ring, and its answers go out: counts them, before anybody can know.
    pub fn settle(&mut self, requests: &[Request]) {
        self.counters.turns.add(1);
        if self.answers.is_empty() {
            return;
        }
        let now = self.clock.now();
        let ticks = |tag: u16| now.saturating_sub(self.came[usize::from(tag)]);
        for Answer { tag, result, .. } in &self.answers {
            self.counters.count(&requests[usize::from(*tag)].what, *result, ticks(*tag));
        }
        if self.tracer.wanted() {
            self.tracer.note(self.answers.iter().map(|Answer { tag, result, faults }| Record {
                queue: self.queue,
                tag: *tag,
                what: requests[usize::from(*tag)].what,
                result: *result,
                faults: *faults,
                ended: now,
                ticks: ticks(*tag),
            }));
        }
        self.answers.clear();
    }

    /// The moment at which everything came that an enter has brought.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// The tag's request came at that moment.
    #[inline]
    pub fn came(&mut self, tag: u16, now: u64) {
        self.came[usize::from(tag)] = now;
    }

    /// This number of requests arrived.
    pub fn taken(&self, number: u64) {
        self.counters.taken.add(number);
    }
}
