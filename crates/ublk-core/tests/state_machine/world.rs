//! A server and a simulated driver, driven step by step. Every step is something that the real driver, or a
//! server of any quality, may do at that moment; after every step the books are compared.

use crate::driver::{Command, Completion, Driver, Fate, Recovery, RequestId, What};
use crate::link::{Link, News};
use crate::steps::{End, Pick, Step};
use ublk_core::queue::Ticket;
use ublk_core::testing::tags::{Delivery, Tags, Violation};

pub struct World<L> {
    depth: u16,
    driver: Driver,
    tags: Tags,
    link: L,
    /// What the server has to answer.
    held: Vec<(Ticket, RequestId)>,
    /// Tickets that were good once.
    stale: Vec<Ticket>,
    neighbour: Tags,
    strange: Vec<Ticket>,
    /// The server answers its requests, and ends.
    handing_over: bool,
}

impl<L: Link> World<L> {
    pub fn new(depth: u16) -> Self {
        Self {
            depth,
            driver: Driver::new(depth),
            tags: offered(depth),
            link: L::new(depth),
            held: Vec::new(),
            stale: Vec::new(),
            neighbour: offered(depth),
            strange: Vec::new(),
            handing_over: false,
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Arrive(blocks) => self.driver.arrive(*blocks),
            Step::Submit(most) => self.link.submit(&mut self.driver, *most),
            Step::Refuse(error) => self.link.refuse(*error),
            Step::Dispatch(which) => _ = self.link.dispatch(&mut self.driver, *which),
            Step::Tell(most) => self.link.tell(*most),
            Step::Overrun => self.link.overrun(),
            Step::Abort(which) => _ = self.link.abort(&mut self.driver, *which),
            Step::HandOver => self.hand_over(),
            Step::Deliver(which) => _ = self.deliver(*which),
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
        self.succeed();
    }

    fn hand_over(&mut self) {
        if self.link.hand_over() {
            self.tags.withdraw();
            self.handing_over = true;
        }
    }

    /// After a server has answered all its requests, the next one takes over.
    fn succeed(&mut self) {
        if self.handing_over && self.over() {
            self.replace_server(Recovery::Reissue);
        }
    }

    /// Both sides agree on what is where.
    fn compare(&self) {
        assert_eq!(self.tags.depth(), self.depth);
        assert_eq!(self.tags.owned() as usize, self.held.len(), "owned");
        let outstanding = self.link.outstanding(&self.driver).len();
        assert_eq!(self.tags.offered() as usize, outstanding, "offered");
        assert_eq!(self.tags.settled(), self.held.is_empty() && outstanding == 0);
        assert!(!self.over() || self.handing_over || self.driver.all_gone(), "the server goes too early");
        for (ticket, request) in &self.held {
            assert!(self.tags.owns(*ticket));
            assert_eq!(self.driver.in_flight(ticket.tag), Some(*request));
        }
    }

    /// The server has nothing to do any more.
    fn over(&self) -> bool {
        self.tags.settled() && self.link.quiet()
    }

    /// The server sees one of the completions; whether there was one.
    fn deliver(&mut self, which: Pick) -> bool {
        let Some(news) = self.link.deliver(which) else { return false };
        for one in news {
            match one {
                News::Tag(completion) => self.completed(completion),
                News::Withdrawn => self.tags.withdraw(),
                News::Refused => self.replace_server(Recovery::Reissue),
            }
        }
        true
    }

    fn completed(&mut self, Completion { tag, result }: Completion) {
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
        self.link.answer(Command { tag: ticket.tag, what: What::Commit { request, result } });
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
        } else if self.link.outstanding(&self.driver).contains(&tag) {
            return;
        } else {
            Violation::NothingOutstanding(tag)
        };
        assert_eq!(self.tags.completed(tag, result), Err(expected));
    }

    /// The server dies with its ring; what it knew is worth nothing to the next.
    fn replace_server(&mut self, recovery: Recovery) {
        self.driver.server_died(recovery);
        self.stale.extend(self.held.drain(..).map(|(ticket, _)| ticket));
        (self.tags, self.link) = (offered(self.depth), L::new(self.depth));
        self.handing_over = false;
    }

    pub fn end(&mut self, end: End) {
        let mut rounds = RoundRobin(0);
        match end {
            End::Served => {
                // A tag that was taken back is not given again: a server without tags is replaced.
                while self.driver.is_waiting() || self.is_busy() {
                    rounds.pass();
                    if self.driver.all_gone() {
                        self.replace_server(Recovery::Reissue);
                    }
                    while self.link.dispatch(&mut self.driver, Pick::FIRST) {}
                    self.settle_all();
                }
            }
            End::Stopped => {}
            End::Died => return self.die(),
        }
        self.driver.stop();
        while self.is_busy() {
            rounds.pass();
            self.settle_all();
        }
        while self.link.abort(&mut self.driver, Pick::FIRST) {}
        self.settle_all();
        assert!(self.over(), "something is owed at the end: {:?}", self.tags);
        assert!(self.driver.all_gone());
        self.nothing_is_good_any_more();
    }

    fn is_busy(&self) -> bool {
        !self.held.is_empty() || self.link.busy()
    }

    fn die(&mut self) {
        self.driver.stop();
        self.driver.server_died(Recovery::Fail);
        self.nothing_is_good_any_more();
    }

    /// One round: what was prepared is submitted, what completed is delivered, what is held is answered.
    fn settle_all(&mut self) {
        self.link.submit(&mut self.driver, usize::MAX);
        self.link.tell(usize::MAX);
        while self.deliver(Pick::FIRST) {}
        while !self.held.is_empty() {
            self.answer(0, Ok(u32::MAX));
        }
        self.compare();
        self.succeed();
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

/// Counts rounds in which every possible step is done: a few serve all requests, unless the server sleeps although it
/// has some.
struct RoundRobin(u32);

impl RoundRobin {
    fn pass(&mut self) {
        self.0 += 1;
        assert!(self.0 < 10_000, "the server sleeps on what it has to do");
    }
}

/// Tags that are all offered.
fn offered(depth: u16) -> Tags {
    let mut tags = Tags::new(depth);
    (0..depth).for_each(|tag| tags.offer(tag).unwrap());
    tags
}
