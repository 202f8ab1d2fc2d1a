//! Completions from outside the ring: from any thread, at any time.

use super::calls::Call;
use super::files::Files;
use super::line::LineId;
use crate::request::Ticket;
use crate::waker::Waker;
use std::fmt;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// An engine's number for one of the operations that a call waits for.
pub type Key = u16;

/// An operation that a call waited for, and its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completion {
    pub(super) call: Call,
    /// The key that was passed to the operation or [`Io::token`](super::Io::token).
    pub key: Key,
    /// The operation's: bytes done, or a negative error number.
    pub result: i32,
}

/// Names an event outside the ring that a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub(super) ticket: Ticket,
    pub(super) call: Call,
    pub(super) generation: u32,
    pub(super) key: Key,
}

/// Something to do on a queue's thread.
pub(crate) type Task = Box<dyn FnOnce(&mut Files<'_>) + Send>;

/// An event outside the ring.
pub(crate) enum Outside {
    /// The token's event has happened.
    Done(Token, i32),
    /// Something is told to a line.
    Told(LineId, Key, i32),
    /// A lease of a call's data was given back.
    Returned { tag: u16, call: Call },
    /// The queue's thread is to do this between two requests.
    Task(Task),
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(token, result) => f.debug_tuple("Done").field(token).field(result).finish(),
            Self::Told(line, key, result) => write!(f, "Told({line:?}, {key}, {result})"),
            Self::Returned { tag, call } => write!(f, "Returned({tag}, {call})"),
            Self::Task(_) => f.write_str("Task"),
        }
    }
}

/// Resumes requests of one queue, from any thread. A request that was answered meanwhile is not resumed.
#[derive(Debug, Clone)]
pub struct Completer {
    waker: Waker,
    happened: Arc<Mutex<Vec<Outside>>>,
}

impl Completer {
    /// For the queue that `waker` wakes.
    pub fn new(waker: Waker) -> Self {
        Self { waker, happened: Arc::default() }
    }

    /// Reports that the token's event has happened, with its result: 0 or more, or a negative error number.
    pub fn complete(&self, token: Token, result: i32) {
        self.add(Outside::Done(token, result));
    }

    /// Has the queue's thread do something between two requests, without waiting for those in flight. The receiver gets its
    /// result; it is disconnected if the queue ends before.
    pub fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Files<'_>) -> T + Send + 'static,
    ) -> Receiver<T> {
        let (answer, answered) = sync_channel(1);
        self.add(Outside::Task(Box::new(move |files| {
            let _ = answer.send(what(files)); // the other side may wait no more
        })));
        answered
    }

    /// Tells a line of the queue something.
    pub fn tell(&self, line: LineId, key: Key, result: i32) {
        self.add(Outside::Told(line, key, result));
    }

    pub(super) fn returned(&self, tag: u16, call: Call) {
        self.add(Outside::Returned { tag, call });
    }

    fn add(&self, what: Outside) {
        let mut happened = self.happened.lock().unwrap_or_else(PoisonError::into_inner);
        happened.push(what);
        let first = happened.len() == 1; // for the others the queue is woken already
        drop(happened);
        if first {
            self.waker.wake();
        }
    }

    /// Exchanges what has happened for `room`, which is empty.
    pub(crate) fn take(&self, room: &mut Vec<Outside>) {
        std::mem::swap(&mut *self.happened.lock().unwrap_or_else(PoisonError::into_inner), room);
    }
}

#[cfg(test)]
impl Token {
    /// Of a request's own call.
    pub fn of(ticket: Ticket) -> Self {
        Self { ticket, call: ticket.tag.into(), generation: 0, key: 0 }
    }
}
