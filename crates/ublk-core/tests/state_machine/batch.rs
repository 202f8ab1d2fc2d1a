//! The batch transport, with a server thread that sleeps like the real one: one command for many answers, of which the
//! driver may take only the first; one that delivers requests until it ends. The ring keeps the order of what it
//! carries.

use crate::driver::{Command, Completion, Driver, What};
use crate::link::{Link, News};
use crate::steps::Pick;
use std::collections::VecDeque;
use ublk_core::queue::Awaited;

pub struct Batch {
    /// Answers for the next command.
    next: Vec<Command>,
    /// What the last one has not done, as far as the server knows.
    sent: Vec<Command>,
    /// How many of those the driver has done.
    done: usize,
    /// The server knows that the driver has the tags.
    offered: bool,
    /// What the server has to wait for, tracked by the server.
    awaited: Awaited,
    /// Whether FETCH_IO_CMDS is in flight.
    heard: bool,
    /// Tags whose requests the server has not been given.
    untold: VecDeque<u16>,
    ring: VecDeque<Carried>,
    /// The server's thread sleeps until there are this many completions.
    asleep: Option<usize>,
    /// The server no longer owns the tags.
    withdrawn: bool,
}

enum Carried {
    /// So many commands were done.
    Took(usize),
    Refused,
    /// These tags have requests.
    List(Vec<u16>),
    /// No more of these: for lack of room, or for good.
    Overrun,
    End,
    /// The server was woken.
    Wake,
}

impl Batch {
    fn can_send(&mut self) -> bool {
        if self.awaited.sending() {
            return false;
        }
        if self.sent.is_empty() {
            std::mem::swap(&mut self.sent, &mut self.next);
        }
        !self.sent.is_empty()
    }

    /// Whether the server's thread is still asleep.
    fn sleeps(&mut self) -> bool {
        self.asleep = self.asleep.filter(|wanted| self.ring.len() < *wanted);
        self.asleep.is_some()
    }
}

impl Link for Batch {
    fn new(depth: u16) -> Self {
        Self {
            next: (0..depth).map(|tag| Command { tag, what: What::Fetch }).collect(),
            sent: Vec::new(),
            done: 0,
            offered: false,
            awaited: Awaited::default(),
            heard: false,
            untold: VecDeque::new(),
            ring: VecDeque::new(),
            asleep: None,
            withdrawn: false,
        }
    }

    fn answer(&mut self, answer: Command) {
        self.next.push(answer);
        self.asleep = None; // the thread that answers is awake
    }

    /// A turn: submits the prepared commands and sleeps.
    fn submit(&mut self, driver: &mut Driver, most: usize) {
        if self.sleeps() {
            return;
        }
        let asks = self.offered && self.awaited.unasked();
        if asks {
            self.awaited.ask();
        }
        let mut sure = 0;
        if self.can_send() {
            // Answers are taken in part, tags are offered all or none.
            self.done = if self.offered { most.min(self.sent.len()) } else { self.sent.len() };
            for command in &self.sent[..self.done] {
                // A tag that cannot be offered any more ends with all others.
                let _ = driver.command(*command);
            }
            self.awaited.send();
            // The real driver does a part only if it refuses the rest, which ends the queue at any time.
            sure = self.awaited.sure(self.done < self.sent.len() || !self.next.is_empty());
            self.ring.push_back(Carried::Took(self.done));
        }
        self.heard |= asks;
        self.asleep = Some(1 + sure as usize);
    }

    fn refuse(&mut self, _error: i32) {
        if !self.sleeps() && self.can_send() {
            self.awaited.send();
            self.ring.push_back(Carried::Refused);
        }
    }

    fn dispatch(&mut self, driver: &mut Driver, which: Pick) -> bool {
        let completion = driver.dispatch(which);
        self.untold.extend(completion.map(|completion| completion.tag));
        completion.is_some()
    }

    fn tell(&mut self, most: usize) {
        let count = most.min(self.untold.len());
        if self.heard && count > 0 {
            self.ring.push_back(Carried::List(self.untold.drain(..count).collect()));
        }
    }

    fn overrun(&mut self) {
        if std::mem::take(&mut self.heard) {
            self.ring.push_back(Carried::Overrun);
        }
    }

    fn abort(&mut self, driver: &mut Driver, _which: Pick) -> bool {
        let heard = std::mem::take(&mut self.heard);
        if heard {
            driver.withdraw(self.untold.drain(..));
            self.ring.push_back(Carried::End);
        }
        heard
    }

    fn hand_over(&mut self) -> bool {
        let can = self.offered && self.awaited.wanted();
        if can {
            self.awaited.leave_requests();
            self.ring.push_back(Carried::Wake);
            self.withdrawn = true;
        }
        can
    }

    fn deliver(&mut self, _which: Pick) -> Option<Vec<News>> {
        if self.sleeps() {
            return None;
        }
        Some(match self.ring.pop_front()? {
            Carried::Took(count) => {
                self.sent.drain(..count);
                self.awaited.sent();
                (self.done, self.offered) = (0, true);
                vec![]
            }
            Carried::Refused => vec![News::Refused],
            Carried::List(tags) if self.awaited.wanted() => {
                tags.into_iter().map(|tag| News::Tag(Completion { tag, result: 0 })).collect()
            }
            Carried::Overrun => {
                self.awaited.told(false);
                vec![]
            }
            Carried::End => {
                self.awaited.told(true);
                self.withdrawn = true;
                vec![News::Withdrawn]
            }
            Carried::List(_) | Carried::Wake => vec![],
        })
    }

    fn outstanding(&self, driver: &Driver) -> Vec<u16> {
        if self.withdrawn {
            return Vec::new();
        }
        let told = self.ring.iter().flat_map(|carried| match carried {
            Carried::List(tags) => tags.as_slice(),
            _ => &[],
        });
        let undone = self.next.iter().chain(&self.sent[self.done..]).map(|command| command.tag);
        let with_driver = driver.offered().into_iter().chain(driver.gone());
        undone.chain(with_driver).chain(told.chain(&self.untold).copied()).collect()
    }

    fn quiet(&self) -> bool {
        !self.awaited.sending() && self.sent.is_empty() && self.next.is_empty()
    }

    fn busy(&self) -> bool {
        let all_sent = self.next.is_empty() && self.done == self.sent.len();
        // Its answers were given; the completion is seen with the next request.
        if self.asleep.is_some_and(|wanted| self.ring.len() < wanted) && self.heard && all_sent {
            return !self.untold.is_empty();
        }
        !self.quiet() || !self.ring.is_empty() || !self.untold.is_empty() || self.awaited.unasked()
    }
}
