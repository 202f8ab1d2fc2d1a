//! Many queues on one thread, which sleeps in one system call for all of them.
//!
//! It sleeps in the ring of one of its queues, its *home*. This ring watches an eventfd, the bell, which the rings of all
//! other queues signal. The home costs the same as a queue with its own thread: one call submits its answers and waits for its
//! requests. The others cost two more calls, and a queue that is the only busy one becomes the home.

use super::queue_worker::QueueWorker;
use crate::queue::{Wait, Waker};
use std::time::Instant;

/// After this number of rounds without work for the home, another queue becomes the home.
const STRAYS: u32 = 16;

/// See the [module](self).
pub struct RoundRobin {
    /// The first is the home.
    workers: Vec<QueueWorker>,
    bell: Waker,
    /// The bell was rung, or not all was done that there was to do.
    attend: bool,
    rung: bool,
    strays: u32,
}

impl RoundRobin {
    /// Without queues. Ringing the bell makes a sleeping [`turn`](Self::turn) return.
    pub fn new(bell: Waker) -> Self {
        Self { workers: Vec::new(), bell, attend: true, rung: false, strays: 0 }
    }

    /// Serves this one too.
    pub fn add(&mut self, mut worker: QueueWorker) {
        if self.workers.is_empty() {
            worker.arrange(|queue| queue.listen(self.bell.fd()));
        } else {
            worker.arrange(|queue| queue.ring_bell(&self.bell));
        }
        self.workers.push(worker);
        self.attend = true; // what it has to do already rings no bell
    }

    /// Whether it has no workers.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Whether the bell was rung before the last turn.
    pub fn rung(&self) -> bool {
        self.rung
    }

    /// One round: every queue that has something to do gets a turn. Where none has, sleeps until one has or the bell is
    /// rung. How many queues were left; not to be called without any.
    pub fn turn(&mut self) -> usize {
        let mut busy = None;
        if self.attend {
            let mut more = false;
            for (at, worker) in self.workers.iter_mut().enumerate().skip(1) {
                if worker.due() && !worker.over() {
                    worker.step(Wait::No);
                    busy = if worker.worked() { Some(at) } else { busy };
                }
                // Not only its requests: the answers want to be sent.
                more |= worker.due();
            }
            self.attend = more;
        }
        let wait = if self.attend { Wait::No } else { self.patience() };
        let home = &mut self.workers[0];
        let turned = !home.over() && (wait != Wait::No || home.due());
        if turned {
            home.step(wait);
        }
        self.rung = turned && home.heard();
        self.attend |= self.rung || matches!(wait, Wait::AtMost(_));
        self.strays = if turned && home.worked() { 0 } else { self.strays + 1 };
        if let Some(at) = busy.filter(|_| self.strays >= STRAYS && !home.over()) {
            home.arrange(|queue| queue.listen_no_more().and_then(|()| queue.ring_bell(&self.bell)));
            self.move_into(at);
        }
        self.leave()
    }

    /// Makes the worker there the home.
    fn move_into(&mut self, at: usize) {
        self.workers.swap(0, at);
        self.workers[0].arrange(|queue| queue.ring_no_bell().and_then(|()| queue.listen(self.bell.fd())));
        (self.strays, self.attend) = (0, true); // what came meanwhile may have rung no bell
    }

    /// Closes the workers that are over.
    fn leave(&mut self) -> usize {
        let (before, mut homeless) = (self.workers.len(), false);
        for at in (0..before).rev() {
            if self.workers[at].over() {
                homeless |= at == 0;
                self.workers.swap_remove(at).close();
            }
        }
        if homeless && !self.workers.is_empty() {
            self.move_into(0);
        }
        before - self.workers.len()
    }

    /// How long there is nothing to do, if nothing comes.
    fn patience(&self) -> Wait {
        let until = self.workers.iter().filter_map(QueueWorker::deadline).min();
        until.map_or(Wait::Forever, |until| Wait::AtMost(until.saturating_duration_since(Instant::now())))
    }
}
