//! What makes a turn of a queue return, besides its requests; and what tells that a turn is due.

use super::ring::Ring;
use super::user_data::{KIND_CANCEL, KIND_LISTEN};
use super::{Queue, Waker};
use crate::error::Result;
use io_uring::{opcode, types};
use std::os::fd::RawFd;

impl Queue {
    /// Whether the [`Waker`] was used before the last turn.
    pub fn woken(&self) -> bool {
        self.woken
    }

    /// Lets turns return when `fd` has something to read, too: it has to be open for as long. Other than the waker it
    /// is not cleared: it wakes once for each thing that comes.
    pub fn listen(&mut self, fd: RawFd) -> Result<()> {
        self.listening = Some(fd);
        poll(&mut self.ring, fd, KIND_LISTEN)
    }

    /// Stops listening.
    pub fn listen_no_more(&mut self) -> Result<()> {
        if self.listening.take().is_none() {
            return Ok(());
        }
        // PollRemove would fail, and leave the poll, where something has just come.
        let entry = opcode::AsyncCancel::new(KIND_LISTEN).build().user_data(KIND_CANCEL);
        // SAFETY: points to no memory.
        unsafe { self.ring.push(&entry) }
    }

    /// Whether what it [`listen`](Self::listen)s to has come before the last turn.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// Whether another turn would find more, for which the [`watch`](Self::watch) is not rung again.
    pub fn pending(&self) -> bool {
        self.ring.pending()
    }

    /// Rung whenever the ring has something for [`turn`](Self::turn): for a thread that waits for other things
    /// too. It has to be cleared before each turn.
    pub fn watch(&self) -> Result<Waker> {
        let bell = Waker::new()?;
        self.ring_bell(&bell)?;
        Ok(bell)
    }

    /// Lets the ring ring `bell` when something comes for [`turn`](Self::turn). What was there before rings nothing.
    pub fn ring_bell(&self, bell: &Waker) -> Result<()> {
        self.waker.wakes_too(Some(bell.clone()));
        self.ring.ring_bell(bell.fd())
    }

    /// Stops ringing it.
    pub fn ring_no_bell(&self) -> Result<()> {
        self.waker.wakes_too(None);
        self.ring.ring_no_bell()
    }

    /// Whether a turn has something to do: to submit, to handle, or to poll for. Needs no system call.
    pub fn due(&mut self) -> bool {
        !self.copying.is_empty() || self.commands.due() || self.ring.due()
    }
}

/// Completes for each thing to read that comes to `fd`.
pub(super) fn poll(ring: &mut Ring, fd: RawFd, kind: u64) -> Result<()> {
    let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN.cast_unsigned().into())
        .multi(true)
        .build()
        .user_data(kind);
    // SAFETY: points to no memory.
    unsafe { ring.push(&entry) }
}
