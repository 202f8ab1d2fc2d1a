//! How requests come from the driver and answers go back: the commands of each [`Transport`](super::mode::Transport).
//!
//! Both are used alike: [`offer_all`](Commands::offer_all) once, then in each turn [`answer`](Commands::answer) for what
//! is finished, [`send`](Commands::send) before the enter, [`completed`](Commands::completed) for each completion that it
//! brought, and [`settle`](Commands::settle) after them.

pub mod awaited;
mod batch;
mod per_io;
mod provided;

use super::data::Data;
use super::in_flight::InFlight;
use super::mode::Transport;
use super::ring::Ring;
use crate::error::Result;
use batch::Batch;
use io_uring::cqueue;
use per_io::PerIo;

/// The commands of one queue.
pub enum Commands {
    PerIo(PerIo),
    Batch(Batch),
}

impl Commands {
    pub fn new(transport: Transport, queue: u16, depth: u16, threads: u16) -> Result<Self> {
        Ok(match transport {
            Transport::PerIo => Self::PerIo(PerIo::new(queue)),
            Transport::Batch => Self::Batch(Batch::new(queue, depth, threads)?),
        })
    }

    /// Offers to the driver every tag that there is a buffer for.
    pub fn offer_all(&mut self, ring: &mut Ring, data: &Data) -> Result<()> {
        match self {
            Self::PerIo(commands) => commands.offer_all(ring, data),
            Self::Batch(commands) => commands.offer_all(ring, data),
        }
    }

    /// Whether the driver has yet to take the tags.
    pub fn offering(&self) -> bool {
        match self {
            Self::PerIo(_) => false, // it keeps the commands until there are requests
            Self::Batch(commands) => commands.offering(),
        }
    }

    /// Whether the threads of a queue have its tags in common: then the first one offers all of them.
    pub fn in_common(&self) -> bool {
        matches!(self, Self::Batch(_))
    }

    /// All tags are offered, by any thread: from the next enter on the driver may deliver requests.
    pub fn join(&mut self, ring: &mut Ring) -> Result<()> {
        match self {
            Self::PerIo(_) => Ok(()),
            Self::Batch(commands) => commands.join(ring),
        }
    }

    /// Answers the tag's request in the driver's form, with what is to be moved, and offers the tag again.
    #[inline]
    pub fn answer(&mut self, ring: &mut Ring, data: &mut Data, tag: u16, result: i32) -> Result<()> {
        match self {
            Self::PerIo(commands) => commands.answer(ring, data, tag, result),
            Self::Batch(commands) => {
                commands.answer(data, tag, result);
                Ok(())
            }
        }
    }

    /// Leaves the requests that the driver delivers from now on to the next server. With one command per tag, the
    /// driver takes the commands back instead.
    pub fn leave_requests(&mut self) {
        match self {
            Self::PerIo(_) => {}
            Self::Batch(commands) => commands.leave_requests(),
        }
    }

    /// Prepares the entries for the next enter. Returns how many completions these cause in addition to those of requests.
    #[inline]
    pub fn send(&mut self, ring: &mut Ring, data: &mut Data) -> Result<u32> {
        match self {
            Self::PerIo(_) => Ok(0),
            Self::Batch(commands) => commands.send(ring, data),
        }
    }

    /// One of the commands, or what one was linked to, completed.
    #[inline]
    pub fn completed(
        &mut self,
        kind: u64,
        completion: &cqueue::Entry,
        in_flight: &mut InFlight,
    ) -> Result<()> {
        match self {
            Self::PerIo(commands) => commands.completed(kind, completion, in_flight),
            Self::Batch(commands) => commands.completed(kind, completion, in_flight),
        }
    }

    /// All completions of an enter were seen.
    #[inline]
    pub fn settle(&mut self, ring: &mut Ring, data: &mut Data) -> Result<()> {
        match self {
            Self::PerIo(commands) => commands.settle(ring, data),
            Self::Batch(commands) => commands.settle(ring, data),
        }
    }

    /// Answers are prepared that the next enter sends.
    pub fn due(&self) -> bool {
        match self {
            Self::PerIo(_) => false,
            Self::Batch(commands) => commands.due(),
        }
    }

    /// No command but those that wait for requests is in the kernel.
    pub fn quiet(&self) -> bool {
        match self {
            Self::PerIo(_) => true,
            Self::Batch(commands) => commands.quiet(),
        }
    }
}
