//! The batch transport: one command for many answers, of which the driver may take only the first; one that tells of
//! requests until it ends. The ring keeps the order of what it carries.

use crate::driver::{Command, Completion, Driver, What};
use crate::link::{Link, News};
use crate::steps::Pick;
use std::collections::VecDeque;

pub struct Batch {
    /// Answers for the next command.
    next: Vec<Command>,
    /// What the last one has not done, as far as the server knows.
    sent: Vec<Command>,
    /// How many of those the driver has done.
    done: usize,
    in_kernel: bool,
    /// The server knows that the driver has the tags.
    offered: bool,
    /// What the server thinks of the command that tells of requests.
    telling: Telling,
    /// Whether the driver has it.
    heard: bool,
    /// Tags with requests that the server was not told of.
    untold: VecDeque<u16>,
    ring: VecDeque<Carried>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    No,
    Yes,
    Ended,
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
}

impl Batch {
    fn can_send(&mut self) -> bool {
        if self.in_kernel {
            return false;
        }
        if self.sent.is_empty() {
            std::mem::swap(&mut self.sent, &mut self.next);
        }
        !self.sent.is_empty()
    }
}

impl Link for Batch {
    fn new(depth: u16) -> Self {
        Self {
            next: (0..depth).map(|tag| Command { tag, what: What::Fetch }).collect(),
            sent: Vec::new(),
            done: 0,
            in_kernel: false,
            offered: false,
            telling: Telling::No,
            heard: false,
            untold: VecDeque::new(),
            ring: VecDeque::new(),
        }
    }

    fn answer(&mut self, answer: Command) {
        self.next.push(answer);
    }

    fn submit(&mut self, driver: &mut Driver, most: usize) {
        if self.can_send() {
            // Answers are taken in part, tags are offered all or none.
            self.done = if self.offered { most.min(self.sent.len()) } else { self.sent.len() };
            for command in &self.sent[..self.done] {
                // A tag that cannot be offered any more ends with all others.
                let _ = driver.command(*command);
            }
            self.in_kernel = true;
            self.ring.push_back(Carried::Took(self.done));
        }
        if self.offered && self.telling == Telling::No {
            self.telling = Telling::Yes;
            self.heard = true;
        }
    }

    fn refuse(&mut self, _error: i32) {
        if self.can_send() {
            self.in_kernel = true;
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

    fn deliver(&mut self, _which: Pick) -> Option<Vec<News>> {
        Some(match self.ring.pop_front()? {
            Carried::Took(count) => {
                self.sent.drain(..count);
                (self.done, self.in_kernel, self.offered) = (0, false, true);
                vec![]
            }
            Carried::Refused => vec![News::Refused],
            Carried::List(tags) => {
                tags.into_iter().map(|tag| News::Tag(Completion { tag, result: 0 })).collect()
            }
            Carried::Overrun => {
                self.telling = Telling::No;
                vec![]
            }
            Carried::End => {
                self.telling = Telling::Ended;
                vec![News::Withdrawn]
            }
        })
    }

    fn outstanding(&self, driver: &Driver) -> Vec<u16> {
        if self.telling == Telling::Ended {
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
        !self.in_kernel && self.sent.is_empty() && self.next.is_empty()
    }

    fn busy(&self) -> bool {
        !self.quiet() || !self.ring.is_empty() || !self.untold.is_empty() || self.telling == Telling::No
    }
}
