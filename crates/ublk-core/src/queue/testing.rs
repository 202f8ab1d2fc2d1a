//! A queue without a driver, for tests of engines: requests come from the test.

use super::calls::Calls;
use super::completer::{Completion, Outside};
use super::data::Data;
use super::ring::Ring;
use super::{Buffers, CALL_SHIFT, KEY_SHIFT, KIND_MASK, KIND_OPERATION};
use super::{Completer, CopyMode, Descriptor, Io, Outcome, Request, Step, TagShare, Ticket, Token, Waker};
use crate::backend::{Backend, Engine, Site};
use crate::pages::Pages;
use crate::queue::ring::Wait;
use crate::report::Reporter;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// See the [module](self).
pub struct Bench {
    engine: Box<dyn Engine>,
    ring: Ring,
    data: Data,
    calls: Calls,
    operations: u32,
    complaint: Option<String>,
    completer: Completer,
    waker: Waker,
    requests: Vec<Option<Request>>,
    generation: u32,
    _char_dev: File,
}

impl Bench {
    /// A queue of `depth` requests of at most `max_io` bytes.
    pub fn new(backend: Arc<dyn Backend>, depth: u16, max_io: u32) -> Self {
        let char_dev = File::open("/dev/null").unwrap();
        let waker = Waker::new().unwrap();
        let completer = Completer::new(waker.clone());
        let mut site = Site::new(depth, max_io, false, completer.clone(), Reporter::new(|_| {}));
        let engine = backend.engine(&mut site).unwrap();
        let (files, operations) = site.needs();
        let slots: Vec<_> = std::iter::once(char_dev.as_raw_fd()).chain(files).collect();
        let buffers = Buffers::new(TagShare::WHOLE, depth, max_io, Pages::default()).unwrap();
        let data = Data::new(
            CopyMode::Copy,
            buffers,
            0,
            Arc::new(super::ClientMemories::new(Reporter::new(|_| {}))),
            char_dev.as_raw_fd(),
        );
        Self {
            engine,
            ring: Ring::new((u32::from(depth) * u32::from(operations)).clamp(8, 256), &slots).unwrap(),
            data,
            calls: Calls::new(depth),
            operations: 0,
            complaint: None,
            completer,
            waker,
            requests: vec![None; depth.into()],
            generation: 0,
            _char_dev: char_dev,
        }
    }

    /// The tag's buffer.
    pub fn buffer(&mut self, tag: u16) -> &mut [u8] {
        let length = self.data.buffers.each();
        // SAFETY: the tests look only while the tag's request is not served.
        unsafe { self.data.buffers.slice(tag, length) }
    }

    /// A request comes; its outcome, if it has one at once.
    pub fn start(&mut self, tag: u16, what: Descriptor) -> Option<Outcome> {
        assert!(self.requests[usize::from(tag)].is_none(), "the tag is in use");
        self.generation += 1;
        let ticket = Ticket { tag, generation: self.generation, queue: 0 };
        self.requests[usize::from(tag)] = Some(Request { ticket, what });
        self.serve(tag, None)
    }

    /// What completed, by ring or otherwise, goes to the engine. The requests that were answered.
    pub fn turn(&mut self) -> Vec<(u16, Outcome)> {
        self.ring.enter(Wait::No, 0).unwrap();
        let mut completed = Vec::new();
        for entry in self.ring.completions() {
            let name = entry.user_data();
            assert_eq!(name & KIND_MASK, KIND_OPERATION);
            let call = (name >> CALL_SHIFT & super::CALL_MASK) as u32;
            completed.push((
                name as u16,
                Completion { call, key: (name >> KEY_SHIFT) as u16, result: entry.result() },
            ));
        }
        for (tag, completion) in &completed {
            self.calls.completed(*tag, completion.call);
            self.operations -= 1;
        }
        self.waker.clear();
        let mut answers: Vec<_> = completed
            .into_iter()
            .filter_map(|(tag, completion)| Some((tag, self.serve(tag, Some(completion))?)))
            .collect();
        let mut outside = Vec::new();
        self.completer.take(&mut outside);
        for what in outside {
            match what {
                Outside::Done(Token { ticket, call, generation, key }, result) => {
                    let asked = self.requests[usize::from(ticket.tag)].map(|request| request.ticket);
                    if asked == Some(ticket) && self.calls.is(call, generation) {
                        let outcome = self.serve(ticket.tag, Some(Completion { call, key, result }));
                        answers.extend(outcome.map(|outcome| (ticket.tag, outcome)));
                    }
                }
                Outside::Returned { tag, call } => {
                    self.calls.completed(tag, call);
                    self.operations -= 1;
                }
            }
        }
        answers
    }

    /// How many operations are in the ring.
    pub fn operations(&self) -> u32 {
        self.operations
    }

    fn serve(&mut self, tag: u16, completion: Option<Completion>) -> Option<Outcome> {
        let request =
            self.requests[usize::from(tag)].expect("something completed for a request that was answered");
        let mut io = Io {
            request,
            call: tag.into(),
            data: &mut self.data,
            ring: &mut self.ring,
            calls: &mut self.calls,
            operations: &mut self.operations,
            complaint: &mut self.complaint,
        };
        let step = match completion {
            None => self.engine.start(&mut io, request.what.piece()),
            Some(completion) => self.engine.resume(&mut io, completion),
        };
        let Step::Done(outcome) = step else { return None };
        assert_eq!(self.calls.operations(tag), 0, "it was answered too early");
        self.requests[usize::from(tag)] = None;
        Some(outcome)
    }
}
