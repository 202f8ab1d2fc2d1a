//! An engine in a queue without a driver.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

#[cfg(feature = "testing")]
pub use super::map_file::MapFirst;
use super::{Backend, Completer, Completion, Engine, Site, Step};

use crate::queue::{Descriptor, LoneQueue, Outcome, Wait, Waker};
use crate::report::Reporter;
use std::sync::Arc;

/// See the [module](self).
pub struct Bench {
    engine: Box<dyn Engine>,
    queue: LoneQueue,
    completer: Completer,
}

impl Bench {
    /// With a queue of `depth` requests of at most `max_io` bytes.
    pub fn new(backend: Arc<dyn Backend>, depth: u16, max_io: u32) -> Self {
        Self::with_segments(backend, depth, max_io, u16::MAX)
    }

    /// The same with at most `segments` places for the scattered data of a request.
    pub fn with_segments(backend: Arc<dyn Backend>, depth: u16, max_io: u32, segments: u16) -> Self {
        Self::with(backend, depth, max_io, segments, false)
    }

    /// As of a device without a write cache.
    pub fn without_write_cache(backend: Arc<dyn Backend>, depth: u16, max_io: u32) -> Self {
        Self::with(backend, depth, max_io, u16::MAX, true)
    }

    fn with(backend: Arc<dyn Backend>, depth: u16, max_io: u32, segments: u16, durable: bool) -> Self {
        let waker = Waker::new().unwrap();
        let completer = Completer::new(waker.clone());
        let mut site = Site::new(depth, max_io, durable, completer.clone(), Reporter::new(|_| {}));
        let engine = backend.engine(&mut site).unwrap();
        let mut needs = site.needs();
        needs.segments = needs.segments.min(segments);
        Self { engine, queue: LoneQueue::new(depth, max_io, needs, waker).unwrap(), completer }
    }

    /// The tag's buffer.
    pub fn buffer(&mut self, tag: u16) -> &mut [u8] {
        self.queue.buffer(tag)
    }

    /// Shares a file's memory with clients.
    #[cfg(test)]
    pub fn share(&mut self, file: std::fs::File) -> u16 {
        self.queue.share(file).unwrap()
    }

    /// A request comes; its outcome, if it has one at once.
    pub fn start(&mut self, tag: u16, what: Descriptor) -> Option<Outcome> {
        self.queue.begin(tag, what);
        self.serve(tag, None)
    }

    /// What completed, by ring or otherwise, goes to the engine. The requests that were answered.
    pub fn turn(&mut self) -> Vec<(u16, Outcome)> {
        let mut answers = Vec::new();
        for (tag, completion) in self.queue.turn(Wait::No).unwrap() {
            answers.extend(self.serve(tag, Some(completion)).map(|outcome| (tag, outcome)));
        }
        let mut outside = Vec::new();
        self.completer.take(&mut outside);
        for what in outside {
            if let Some((tag, completion)) = self.queue.outside(what) {
                answers.extend(self.serve(tag, Some(completion)).map(|outcome| (tag, outcome)));
            }
        }
        while let Some((tag, completion)) = self.queue.going_on() {
            answers.extend(self.serve(tag, Some(completion)).map(|outcome| (tag, outcome)));
        }
        answers
    }

    /// What the engine has reported of a request, if it did since the last time.
    #[cfg(test)]
    pub fn complaint(&mut self) -> Option<String> {
        self.queue.complaint()
    }

    /// The request is answered with an error, as if its engine had panicked.
    #[cfg(test)]
    pub fn fail(&mut self, tag: u16) {
        assert!(self.queue.answered(tag), "the ring uses its data");
    }

    /// Ends the operations of its lines, as when it is dropped. How many operations are left.
    #[cfg(test)]
    pub fn end_lines(&mut self) -> u32 {
        self.queue.end_lines();
        self.queue.operations()
    }

    /// How many operations are in the ring.
    pub fn operations(&self) -> u32 {
        self.queue.operations()
    }

    fn serve(&mut self, tag: u16, completion: Option<Completion>) -> Option<Outcome> {
        let mut io = self.queue.io(tag);
        let step = match completion {
            None => {
                let piece = io.request.what.piece();
                self.engine.start(&mut io, piece)
            }
            Some(completion) => self.engine.resume(&mut io, completion),
        };
        let Step::Done(outcome) = step else { return None };
        assert!(self.queue.answered(tag), "it was answered too early");
        Some(outcome)
    }
}
