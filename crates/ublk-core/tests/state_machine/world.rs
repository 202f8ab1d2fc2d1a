//! A server and a simulated driver, driven step by step. Every step is something that the real driver, or a
//! server of any quality, may do at that moment; after every step the books are compared.

use crate::driver::{Command, Completion, Driver, Fate, Recovery, RequestId, What};
use proptest::prelude::*;
use ublk_core::queue::tags::{Delivery, Tags, Ticket, Violation};

/// One of several, whatever their number.
#[derive(Debug, Clone, Copy)]
pub struct Pick(usize);

impl Pick {
    pub fn of(self, number: usize) -> usize {
        self.0 % number
    }
}

#[derive(Debug, Clone)]
pub enum Step {
    /// A request of so many blocks is made.
    Arrive(u32),
    /// The ring takes the next so many prepared commands.
    Submit(usize),
    /// The next prepared command fails in the driver with this error number.
    Refuse(i32),
    /// A waiting request goes to an offered tag.
    Dispatch(Pick),
    /// An offered tag is taken back.
    Abort(Pick),
    /// The server sees one of the completions.
    Deliver(Pick),
    /// The server answers one of its requests: so many blocks, or an error.
    Answer(Pick, Result<u32, i32>),
    /// It answers one that it has answered before, or that died with its predecessor.
    AnswerStale(Pick),
    /// It answers with another queue's ticket.
    AnswerStrange(Pick),
    /// It answers with a ticket that was never given out.
    AnswerForged(Pick, u16, u32),
    /// The neighbouring queue, which has a ring of its own, gets a request.
    Neighbour(Pick),
    /// A completion comes that no command stands behind.
    Spurious(u16, i32),
    /// The server offers a tag twice.
    OfferAgain(u16),
    /// The server dies, and another takes over.
    Die(Recovery),
}

/// How the device ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// Everything is served, and then it is stopped.
    Served,
    /// It is stopped at once.
    Stopped,
    /// Its server dies, and nobody takes over.
    Died,
}

/// Steps are decoded from plain numbers: a strategy for each would take twenty times the world's own time.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<u64>(), 1..160).prop_map(|raw| raw.into_iter().map(Step::decode).collect())
}

impl Step {
    fn decode(raw: u64) -> Self {
        let pick = Pick((raw >> 32) as usize);
        let blocks = 1 + (raw >> 8) as u32 % 8;
        let tag = (raw >> 16) as u16 % 10;
        let error = [-libc::EINVAL, -libc::EBUSY, -libc::EIO, 1][(raw >> 24) as usize % 4];
        match raw % 148 {
            0..14 => Self::Arrive(blocks),
            14..24 => Self::Submit(blocks as usize),
            24..48 => Self::Dispatch(pick),
            48..72 => Self::Deliver(pick),
            72..90 => Self::Answer(pick, Ok(blocks)),
            90..96 => Self::Answer(pick, Err(1 + ((raw >> 8) % 133) as i32)),
            96..106 => Self::Submit(blocks as usize),
            106..114 => Self::AnswerStale(pick),
            114..122 => Self::AnswerStrange(pick),
            122..126 => Self::AnswerForged(pick, tag, (raw >> 8) as u32),
            126..132 => Self::Neighbour(pick),
            132..136 => Self::Spurious(tag, [0, -libc::ENODEV, error][pick.of(3)]),
            136..139 => Self::OfferAgain(tag),
            139..144 => Self::Abort(pick),
            144..146 => Self::Refuse(error),
            146 => Self::Die(Recovery::Fail),
            _ => Self::Die(Recovery::Reissue),
        }
    }
}

pub struct World {
    depth: u16,
    driver: Driver,
    tags: Tags,
    prepared: Vec<Command>,
    completions: Vec<Completion>,
    /// What the server has to answer.
    held: Vec<(Ticket, RequestId)>,
    /// Tickets that were good once.
    stale: Vec<Ticket>,
    neighbour: Tags,
    strange: Vec<Ticket>,
}

impl World {
    pub fn new(depth: u16) -> Self {
        let mut neighbour = Tags::new(depth);
        (0..depth).for_each(|tag| neighbour.offer(tag).unwrap());
        let mut world = Self {
            depth,
            driver: Driver::new(depth),
            tags: Tags::new(depth),
            prepared: Vec::new(),
            completions: Vec::new(),
            held: Vec::new(),
            stale: Vec::new(),
            neighbour,
            strange: Vec::new(),
        };
        world.offer_all();
        world
    }

    fn offer_all(&mut self) {
        for tag in 0..self.depth {
            self.tags.offer(tag).unwrap();
            self.prepared.push(Command { tag, what: What::Fetch });
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Arrive(blocks) => self.driver.arrive(*blocks),
            Step::Submit(most) => self.submit(*most),
            Step::Refuse(error) => self.refuse(*error),
            Step::Dispatch(which) => self.completions.extend(self.driver.dispatch(*which)),
            Step::Abort(which) => self.completions.extend(self.driver.abort(*which)),
            Step::Deliver(which) => {
                if !self.completions.is_empty() {
                    self.deliver(which.of(self.completions.len()));
                }
            }
            Step::Answer(which, outcome) => {
                if !self.held.is_empty() {
                    self.answer(which.of(self.held.len()), *outcome);
                }
            }
            Step::AnswerStale(which) => {
                if !self.stale.is_empty() {
                    self.refused(self.stale[which.of(self.stale.len())]);
                }
            }
            Step::AnswerStrange(which) => {
                if !self.strange.is_empty() {
                    self.refused(self.strange[which.of(self.strange.len())]);
                }
            }
            Step::AnswerForged(which, tag, by) => {
                if !self.held.is_empty() {
                    let (ticket, _) = self.held[which.of(self.held.len())];
                    let other = ticket.generation.wrapping_add((*by).max(1));
                    self.refused(Ticket { generation: other, ..ticket });
                    self.refused(Ticket { tag: self.depth + tag, ..ticket });
                }
            }
            Step::Neighbour(which) => {
                let tag = which.of(usize::from(self.depth)) as u16;
                let Delivery::Request(ticket) = self.neighbour.completed(tag, 0).unwrap() else { panic!() };
                self.strange.push(ticket);
                self.neighbour.commit(ticket).unwrap();
            }
            Step::Spurious(tag, result) => self.spurious(*tag, *result),
            Step::OfferAgain(tag) => {
                let expected = if *tag < self.depth {
                    Violation::AlreadyOffered(*tag)
                } else {
                    Violation::NoSuchTag(*tag)
                };
                assert_eq!(self.tags.offer(*tag), Err(expected));
            }
            Step::Die(recovery) => self.replace_server(*recovery),
        }
        self.compare();
    }

    /// Both sides agree on what is where.
    fn compare(&self) {
        assert_eq!(self.tags.depth(), self.depth);
        assert_eq!(self.tags.owned() as usize, self.held.len(), "owned");
        let outstanding = self.prepared.len() + self.driver.offered().len() + self.completions.len();
        assert_eq!(self.tags.offered() as usize, outstanding, "offered");
        assert_eq!(self.tags.settled(), self.held.is_empty() && outstanding == 0);
        for (ticket, request) in &self.held {
            assert!(self.tags.owns(*ticket));
            assert_eq!(self.driver.in_flight(ticket.tag), Some(*request));
        }
    }

    fn submit(&mut self, most: usize) {
        let count = most.min(self.prepared.len());
        for command in self.prepared.drain(..count) {
            self.completions.extend(self.driver.command(command));
        }
    }

    fn refuse(&mut self, error: i32) {
        if !self.prepared.is_empty() {
            let tag = self.prepared.remove(0).tag;
            self.completions.push(Completion { tag, result: error });
        }
    }

    fn deliver(&mut self, which: usize) {
        let Completion { tag, result } = self.completions.swap_remove(which);
        match self.tags.completed(tag, result).unwrap() {
            Delivery::Request(ticket) => {
                assert_eq!((result, ticket.tag), (0, tag));
                assert!(!self.stale.contains(&ticket), "{ticket:?} names a second request");
                let request = self.driver.in_flight(tag).expect("a request out of nowhere");
                self.held.push((ticket, request));
            }
            Delivery::Ended => assert_eq!(result, -libc::ENODEV),
            Delivery::Refused(error) => {
                assert_eq!(error, result);
                assert!(error != 0 && error != -libc::ENODEV);
                // A queue that the driver refuses something is given up as a whole.
                self.replace_server(Recovery::Reissue);
            }
        }
    }

    fn answer(&mut self, which: usize, outcome: Result<u32, i32>) {
        let (ticket, request) = self.held.swap_remove(which);
        self.tags.commit(ticket).unwrap();
        let result = match outcome {
            Ok(blocks) => blocks.min(self.driver.blocks_left(request)).cast_signed(),
            Err(errno) => -errno,
        };
        self.prepared.push(Command { tag: ticket.tag, what: What::Commit { request, result } });
        self.stale.push(ticket);
    }

    /// The ticket is not good, and trying it changes nothing.
    fn refused(&mut self, ticket: Ticket) {
        let expected = if ticket.tag < self.depth {
            Violation::NotOwned(ticket)
        } else {
            Violation::NoSuchTag(ticket.tag)
        };
        assert!(!self.tags.owns(ticket), "{ticket:?} is nobody's");
        assert_eq!(self.tags.commit(ticket), Err(expected));
    }

    fn spurious(&mut self, tag: u16, result: i32) {
        let expected = if tag >= self.depth {
            Violation::NoSuchTag(tag)
        } else if self.outstanding(tag) {
            return;
        } else {
            Violation::NothingOutstanding(tag)
        };
        assert_eq!(self.tags.completed(tag, result), Err(expected));
    }

    fn outstanding(&self, tag: u16) -> bool {
        self.prepared.iter().any(|command| command.tag == tag)
            || self.completions.iter().any(|completion| completion.tag == tag)
            || self.driver.offered().contains(&tag)
    }

    /// The server dies with its ring; what it knew is worth nothing to the next.
    fn replace_server(&mut self, recovery: Recovery) {
        self.driver.server_died(recovery);
        self.prepared.clear();
        self.completions.clear();
        self.stale.extend(self.held.drain(..).map(|(ticket, _)| ticket));
        self.tags = Tags::new(self.depth);
        self.offer_all();
    }

    pub fn end(&mut self, end: End) {
        match end {
            End::Served => {
                // A tag that was taken back is not given again: a server without tags is replaced.
                while self.driver.is_waiting() || self.is_busy() {
                    if self.driver.all_gone() {
                        self.replace_server(Recovery::Reissue);
                    }
                    while let Some(completion) = self.driver.dispatch(Pick(0)) {
                        self.completions.push(completion);
                    }
                    self.settle_all();
                }
            }
            End::Stopped => {}
            End::Died => return self.die(),
        }
        self.driver.stop();
        while self.is_busy() {
            self.settle_all();
        }
        while let Some(completion) = self.driver.abort(Pick(0)) {
            self.completions.push(completion);
        }
        self.settle_all();
        assert!(self.tags.settled(), "something is owed at the end: {:?}", self.tags);
        assert!(self.driver.all_gone());
        self.nothing_is_good_any_more();
    }

    fn is_busy(&self) -> bool {
        !self.held.is_empty() || !self.prepared.is_empty() || !self.completions.is_empty()
    }

    fn die(&mut self) {
        self.driver.stop();
        self.driver.server_died(Recovery::Fail);
        self.nothing_is_good_any_more();
    }

    /// One round: what was prepared is submitted, what completed is delivered, what is held is answered.
    fn settle_all(&mut self) {
        self.submit(usize::MAX);
        while !self.completions.is_empty() {
            self.deliver(0);
        }
        while !self.held.is_empty() {
            self.answer(0, Ok(u32::MAX));
        }
        self.compare();
    }

    fn nothing_is_good_any_more(&mut self) {
        for ticket in std::mem::take(&mut self.stale) {
            self.refused(ticket);
        }
        let unsettled = self.driver.fates().filter(Option::is_none).count();
        assert_eq!(unsettled, 0, "requests lost");
    }

    /// Whether every request was done as it was asked for.
    pub fn all_done(&self) -> bool {
        self.driver.fates().all(|fate| fate == Some(Fate::Done))
    }
}
