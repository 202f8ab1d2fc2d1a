//! The tag state machine: the owner of each tag, and its possible next states. Pure: no system calls.
//!
//! ```text
//!          offer                completed(0)                 commit
//!  Idle ──────────► Offered ─────────────────► Owned ──────────────────► Offered …
//!                      │ completed(-ENODEV),           │ after withdraw()
//!                      ▼ withdraw()                   ▼
//!                    Gone                           Gone
//! ```
//!
//! A tag is *offered* from the moment its FETCH or COMMIT_AND_FETCH command is prepared until that command
//! completes, or a list of the batch transport names it; it is *owned* while the server works on its request. Every commit
//! names the queue and the generation of the request it answers. A second, late or wrong answer is refused here, and never
//! reaches the driver.

use crate::request::Ticket;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Offered,
    Owned,
    Gone,
}

#[derive(Debug, Clone, Copy)]
struct Tag {
    state: State,
    generation: u32,
}

/// What the completion of a tag's command means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// A request to serve.
    Request(Ticket),
    /// The driver took the tag back: it will carry no more requests.
    Ended,
    /// The driver refused the command with this error number (negative): the tag is lost.
    Refused(i32),
}

/// An event that the protocol does not allow in the tag's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// There is no such tag.
    NoSuchTag(u16),
    /// The tag was offered already.
    AlreadyOffered(u16),
    /// A completion for a tag that had no command outstanding.
    NothingOutstanding(u16),
    /// A result for a request that is not, or no longer, the server's.
    NotOwned(Ticket),
}

/// The states of one queue's tags.
#[derive(Debug)]
pub struct Tags {
    queue: u32,
    tags: Box<[Tag]>,
    offered: u32,
    owned: u32,
    /// No tag is offered any more.
    withdrawn: bool,
}

impl Tags {
    /// `depth` idle tags.
    pub fn new(depth: u16) -> Self {
        static QUEUES: AtomicU32 = AtomicU32::new(0);
        let tag = Tag { state: State::Idle, generation: 0 };
        Self {
            queue: QUEUES.fetch_add(1, Ordering::Relaxed),
            tags: vec![tag; usize::from(depth)].into(),
            offered: 0,
            owned: 0,
            withdrawn: false,
        }
    }

    /// The queue's depth.
    #[cfg(feature = "testing")]
    pub fn depth(&self) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "as many as the queue is deep")]
        let count = self.tags.len() as u16;
        count
    }

    /// The tag is about to be fetched for the first time.
    pub fn offer(&mut self, tag: u16) -> Result<(), Violation> {
        let slot = self.tags.get_mut(usize::from(tag)).ok_or(Violation::NoSuchTag(tag))?;
        if slot.state != State::Idle {
            return Err(Violation::AlreadyOffered(tag));
        }
        slot.state = State::Offered;
        self.offered += 1;
        Ok(())
    }

    /// The tag's outstanding command completed with `result`.
    pub fn completed(&mut self, tag: u16, result: i32) -> Result<Delivery, Violation> {
        let slot = self.tags.get_mut(usize::from(tag)).ok_or(Violation::NoSuchTag(tag))?;
        if slot.state != State::Offered {
            return Err(Violation::NothingOutstanding(tag));
        }
        self.offered -= 1;
        if result == 0 {
            slot.state = State::Owned;
            slot.generation = slot.generation.wrapping_add(1);
            self.owned += 1;
            return Ok(Delivery::Request(Ticket { tag, generation: slot.generation, queue: self.queue }));
        }
        slot.state = State::Gone;
        Ok(if result == crate::abi::RES_ABORT { Delivery::Ended } else { Delivery::Refused(result) })
    }

    /// The server hands `ticket`'s request back, and with it offers the tag again.
    pub fn commit(&mut self, ticket: Ticket) -> Result<(), Violation> {
        let slot = self.tags.get_mut(usize::from(ticket.tag)).ok_or(Violation::NoSuchTag(ticket.tag))?;
        if slot.state != State::Owned || slot.generation != ticket.generation || self.queue != ticket.queue {
            return Err(Violation::NotOwned(ticket));
        }
        self.owned -= 1;
        if self.withdrawn {
            slot.state = State::Gone;
        } else {
            slot.state = State::Offered;
            self.offered += 1;
        }
        Ok(())
    }

    /// The driver took all offered tags back, and those that the server owns with their answers.
    pub fn withdraw(&mut self) {
        self.withdrawn = true;
        self.offered = 0;
        for slot in self.tags.iter_mut().filter(|slot| slot.state == State::Offered) {
            slot.state = State::Gone;
        }
    }

    /// Whether `ticket`'s request is still the server's to answer.
    pub fn owns(&self, ticket: Ticket) -> bool {
        self.tags.get(usize::from(ticket.tag)).is_some_and(|slot| {
            slot.state == State::Owned && slot.generation == ticket.generation && self.queue == ticket.queue
        })
    }

    /// Requests that the server has and has not answered.
    #[cfg(feature = "testing")]
    pub fn owned(&self) -> u32 {
        self.owned
    }

    /// Commands that the driver has and has not completed.
    pub fn offered(&self) -> u32 {
        self.offered
    }

    /// Nothing is owed in either direction: the queue can be taken down.
    pub fn settled(&self) -> bool {
        self.owned == 0 && self.offered == 0
    }
}
