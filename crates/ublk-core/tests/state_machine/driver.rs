//! The kernel's side of one queue, small and strict: it panics at every command the real driver would refuse,
//! and at every request that is answered twice.

use crate::steps::Pick;
use std::collections::VecDeque;

/// Names a request; the driver alone knows it.
pub type RequestId = usize;

/// A command of the server, prepared and not yet submitted.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    pub tag: u16,
    pub what: What,
}

#[derive(Debug, Clone, Copy)]
pub enum What {
    Fetch,
    /// `request` is the one the server means to answer. The real driver cannot see that: here it is checked.
    Commit {
        request: RequestId,
        result: i32,
    },
}

/// The end of a command: what the server's ring carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    pub tag: u16,
    pub result: i32,
}

/// What becomes of the requests that a dead server had and did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    Fail,
    Reissue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Unfetched,
    Offered,
    InFlight(RequestId),
    Gone,
}

/// How a request ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    Failed,
}

struct Request {
    blocks_left: u32,
    fate: Option<Fate>,
}

pub struct Driver {
    tags: Vec<Side>,
    requests: Vec<Request>,
    waiting: VecDeque<RequestId>,
    stopping: bool,
    /// Tags are not offered any more with the answers of their requests.
    withdrawn: bool,
}

impl Driver {
    pub fn new(depth: u16) -> Self {
        let tags = vec![Side::Unfetched; usize::from(depth)];
        Self { tags, requests: Vec::new(), waiting: VecDeque::new(), stopping: false, withdrawn: false }
    }

    /// Somebody reads or writes `blocks` blocks of the disk.
    pub fn arrive(&mut self, blocks: u32) {
        self.requests.push(Request { blocks_left: blocks, fate: None });
        self.wait(self.requests.len() - 1);
    }

    /// The request waits for a tag; nothing does on a disk that goes away.
    fn wait(&mut self, request: RequestId) {
        if self.stopping {
            self.settle(request, Fate::Failed);
        } else {
            self.waiting.push_back(request);
        }
    }

    /// Gives the next waiting request to one of the offered tags.
    pub fn dispatch(&mut self, pick: Pick) -> Option<Completion> {
        let offered = self.offered();
        if offered.is_empty() || self.waiting.is_empty() {
            return None;
        }
        let tag = offered[pick.of(offered.len())];
        let request = self.waiting.pop_front().unwrap();
        self.tags[usize::from(tag)] = Side::InFlight(request);
        Some(Completion { tag, result: 0 })
    }

    /// Takes one of the offered tags back.
    pub fn abort(&mut self, pick: Pick) -> Option<Completion> {
        let offered = self.offered();
        if offered.is_empty() {
            return None;
        }
        Some(self.end(offered[pick.of(offered.len())]))
    }

    /// Takes all tags back: the offered ones now, the others with the answers of their requests. Requests that the server
    /// was not told of wait for the next one.
    pub fn withdraw(&mut self, untold: impl Iterator<Item = u16>) {
        for tag in untold {
            if let Some(request) = self.in_flight(tag) {
                self.wait(request);
            }
            self.end(tag);
        }
        for tag in self.offered() {
            self.end(tag);
        }
        self.withdrawn = true;
    }

    fn end(&mut self, tag: u16) -> Completion {
        self.tags[usize::from(tag)] = Side::Gone;
        Completion { tag, result: -libc::ENODEV }
    }

    /// Takes a command in. It completes later, by `dispatch` or `abort`, or at once as the answer says.
    pub fn command(&mut self, command: Command) -> Option<Completion> {
        let Command { tag, what } = command;
        let side = self.tags[usize::from(tag)];
        match what {
            What::Fetch => {
                assert_eq!(side, Side::Unfetched, "fetch of tag {tag}");
                if self.stopping {
                    return Some(self.end(tag));
                }
            }
            What::Commit { request, result } => {
                assert_eq!(side, Side::InFlight(request), "answer to request {request} on tag {tag}");
                self.answered(request, result);
            }
        }
        self.tags[usize::from(tag)] = if self.withdrawn { Side::Gone } else { Side::Offered };
        None
    }

    fn answered(&mut self, request: RequestId, result: i32) {
        let left = self.requests[request].blocks_left;
        match u32::try_from(result) {
            Err(_) => self.settle(request, Fate::Failed),
            Ok(done) if done < left => {
                assert!(done > 0, "an answer that does nothing");
                self.requests[request].blocks_left = left - done;
                self.wait(request);
            }
            Ok(done) => {
                assert_eq!(done, left, "an answer beyond the request");
                self.settle(request, Fate::Done);
            }
        }
    }

    fn settle(&mut self, request: RequestId, fate: Fate) {
        let before = self.requests[request].fate.replace(fate);
        assert_eq!(before, None, "request {request} ended twice");
    }

    /// The server is gone, with its ring and all the commands in it.
    pub fn server_died(&mut self, recovery: Recovery) {
        self.withdrawn = false;
        for tag in 0..self.tags.len() {
            if let Side::InFlight(request) = std::mem::replace(&mut self.tags[tag], Side::Unfetched) {
                match recovery {
                    Recovery::Fail => self.settle(request, Fate::Failed),
                    Recovery::Reissue => self.wait(request),
                }
            }
        }
    }

    /// The disk goes away: what waits fails, what is in flight is waited for.
    pub fn stop(&mut self) {
        self.stopping = true;
        for request in std::mem::take(&mut self.waiting) {
            self.settle(request, Fate::Failed);
        }
    }

    pub fn blocks_left(&self, request: RequestId) -> u32 {
        self.requests[request].blocks_left
    }

    /// The request that is in flight on `tag`.
    pub fn in_flight(&self, tag: u16) -> Option<RequestId> {
        match self.tags[usize::from(tag)] {
            Side::InFlight(request) => Some(request),
            _ => None,
        }
    }

    pub fn offered(&self) -> Vec<u16> {
        self.all(Side::Offered)
    }

    pub fn gone(&self) -> Vec<u16> {
        self.all(Side::Gone)
    }

    fn all(&self, side: Side) -> Vec<u16> {
        (0..self.tags.len() as u16).filter(|tag| self.tags[usize::from(*tag)] == side).collect()
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn all_gone(&self) -> bool {
        self.tags.iter().all(|side| *side == Side::Gone)
    }

    /// How every request ended; `None` for one that did not.
    pub fn fates(&self) -> impl Iterator<Item = Option<Fate>> + '_ {
        self.requests.iter().map(|request| request.fate)
    }
}
