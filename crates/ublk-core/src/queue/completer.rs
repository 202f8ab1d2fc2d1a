//! What completes outside the ring: on other threads, at any time.

use super::calls::Call;
use super::wake::Waker;
use crate::request::Ticket;
use std::sync::{Arc, Mutex, PoisonError};

/// An engine's name for one of the things that a call of its waits for.
pub type Key = u16;

/// Something that a call waited for, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    pub(super) call: Call,
    /// As it was given to the operation or [`Io::token`](super::Io::token).
    pub key: Key,
    /// The operation's: bytes done, or a negative error number.
    pub result: i32,
}

/// Names something that a request waits for outside the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub(super) ticket: Ticket,
    pub(super) call: Call,
    pub(super) generation: u32,
    pub(super) key: Key,
}

/// Resumes requests of one queue. For any thread. One that was answered meanwhile is not resumed.
#[derive(Debug, Clone)]
pub struct Completer {
    waker: Waker,
    done: Arc<Mutex<Vec<(Token, i32)>>>,
}

impl Completer {
    /// For the queue that `waker` wakes.
    pub fn new(waker: Waker) -> Self {
        Self { waker, done: Arc::default() }
    }

    /// What the token's request waits for is finished with that result: 0 or more, or a negative error number.
    pub fn complete(&self, token: Token, result: i32) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push((token, result));
        let first = done.len() == 1; // for the others the queue is woken already
        drop(done);
        if first {
            self.waker.wake();
        }
    }

    /// Exchanges what was completed for `room`, which is empty.
    pub(crate) fn take(&self, room: &mut Vec<(Token, i32)>) {
        std::mem::swap(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner), room);
    }
}

#[cfg(test)]
impl Token {
    /// Of a request's own call.
    pub fn of(ticket: Ticket) -> Self {
        Self { ticket, call: ticket.tag.into(), generation: 0, key: 0 }
    }
}
