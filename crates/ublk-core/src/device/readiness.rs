//! Waiting for a device's queues to become ready, without polling: with hundreds of devices that start at the same time,
//! polling alone would keep a machine busy.

use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Waker;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// Hears of each queue of a device that it is ready, or why it is not.
pub struct Readiness {
    device: u32,
    answers: Receiver<Result<()>>,
    answered: Waker,
}

/// One queue's answer, which is a failure unless it is given.
pub struct Answer {
    to: Option<Sender<Result<()>>>,
    answered: Waker,
}

impl Readiness {
    /// For that many queues.
    pub fn of(device: u32, queues: usize) -> Result<(Self, Vec<Answer>)> {
        let (to, answers) = channel();
        let answered = Waker::new()?;
        let answer = |_| Answer { to: Some(to.clone()), answered: answered.clone() };
        let all = (0..queues).map(answer).collect();
        Ok((Self { device, answers, answered }, all))
    }

    /// Returns when this number of queues is ready, or one of them has failed.
    pub fn wait(&self, queues: usize, bound: &Bound) -> Result<()> {
        let until = bound.until();
        bound.cancel.listen(&self.answered);
        let mut ready = 0;
        while ready < queues {
            match self.answers.try_recv() {
                Ok(answer) => {
                    answer?;
                    ready += 1;
                }
                Err(_) if bound.cancel.is_cancelled() => {
                    return Err(self.failed(ErrorKind::Cancelled, "starting the queues was cancelled"));
                }
                Err(_) if Instant::now() >= until => {
                    return Err(self.failed(ErrorKind::Timeout, "the queues did not become ready"));
                }
                Err(_) => self.answered.wait(until.saturating_duration_since(Instant::now())),
            }
        }
        Ok(())
    }

    fn failed(&self, kind: ErrorKind, message: &str) -> Error {
        Error::new(kind, message).device(self.device)
    }
}

impl Answer {
    /// Gives it. A starter that has given up does not hear it.
    pub fn give(mut self, answer: Result<()>) {
        self.send(answer);
    }

    fn send(&mut self, answer: Result<()>) {
        if let Some(to) = self.to.take() {
            let _ = to.send(answer);
            self.answered.wake();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(Err(Error::new(ErrorKind::System, "a queue's thread ended before it was ready")));
    }
}
