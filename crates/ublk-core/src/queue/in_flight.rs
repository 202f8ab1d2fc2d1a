//! The requests in flight of a queue: which tags the server owns, and which requests and completions the last turn brought.

use super::descriptors::Descriptors;
use super::tags::{Delivery, Tags, Violation};
use super::{Completion, Descriptor, Event, Op, Request};
use crate::error::{Error, ErrorKind, Result};
use crate::request::Ticket;
use crate::telemetry::Accounts;

/// See the [module](self).
pub struct InFlight {
    pub tags: Tags,
    table: Descriptors,
    requests: Box<[Request]>,
    events: Vec<Event>,
    pub accounts: Accounts,
    /// When the last enter returned, in ticks.
    now: u64,
    /// How many requests it brought.
    taken: u64,
    queue: u16,
    refused: Option<(u16, i32)>,
}

impl InFlight {
    pub fn new(table: Descriptors, depth: u16, queue: u16, accounts: Accounts) -> Self {
        let nothing = Descriptor::new(Op::Other(u8::MAX), 0, 0);
        let ticket = |tag| Ticket { tag, generation: 0, queue: 0 };
        Self {
            tags: Tags::new(depth),
            table,
            requests: (0..depth).map(|tag| Request { ticket: ticket(tag), what: nothing }).collect(),
            events: Vec::with_capacity(usize::from(depth) + 1),
            accounts,
            now: 0,
            taken: 0,
            queue,
            refused: None,
        }
    }

    /// A turn begins: the answers are about to go out.
    pub fn clear(&mut self) {
        self.events.clear();
        self.accounts.settle(&self.requests);
    }

    /// The enter has returned.
    pub fn entered(&mut self) {
        self.now = self.accounts.now();
        self.taken = 0;
    }

    /// The command that offered the tag has completed: the tag has a request, or is withdrawn.
    #[inline]
    pub fn completed(&mut self, tag: u16, result: i32) -> Result<()> {
        match self.tags.completed(tag, result).map_err(broken)? {
            Delivery::Request(ticket) => {
                self.requests[usize::from(tag)] = Request { ticket, what: self.table.read(tag) };
                self.accounts.came(tag, self.now);
                self.events.push(Event::Request(ticket));
                self.taken += 1;
            }
            Delivery::Ended => {}
            Delivery::Refused(errno) => self.refused = Some((tag, errno)),
        }
        Ok(())
    }

    /// The driver has withdrawn all tags.
    pub fn withdrawn(&mut self) {
        self.tags.withdraw();
    }

    /// An operation of the tag's request is finished.
    #[inline]
    pub fn operated(&mut self, tag: u16, completion: Completion) {
        self.events.push(Event::Operation(self.request(tag).ticket, completion));
    }

    /// All completions were seen.
    pub fn settle(&mut self) -> Result<()> {
        self.accounts.taken(self.taken);
        match self.refused.take() {
            Some((tag, errno)) => Err(Error::system(
                format!("the driver refused tag {tag} of queue {}", self.queue),
                &std::io::Error::from_raw_os_error(-errno),
            )),
            None => Ok(()),
        }
    }

    /// What the last turn brought, by position.
    #[inline]
    pub fn event(&self, at: usize) -> Option<Event> {
        self.events.get(at).copied()
    }

    /// The last request at `tag`.
    #[inline]
    pub fn request(&self, tag: u16) -> Request {
        self.requests[usize::from(tag)]
    }

    /// The name of the request that the server owns at `tag`, if it owns one.
    pub fn ticket(&self, tag: u16) -> Option<Ticket> {
        let ticket = self.requests.get(usize::from(tag))?.ticket;
        self.tags.owns(ticket).then_some(ticket)
    }
}

pub fn broken(violation: Violation) -> Error {
    Error::new(ErrorKind::System, format!("the queue's protocol was broken: {violation:?}"))
}
