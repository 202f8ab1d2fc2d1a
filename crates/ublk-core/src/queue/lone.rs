//! A queue without a driver: its owner makes the requests, and serves them with an engine.

use super::calls::Calls;
use super::completer::{Completion, Outside};
use super::data::Data;
use super::files::{Files, Taken};
use super::line::{self, Lines};
use super::ring::{Ring, Wait};
use super::user_data::{KIND_CANCEL, KIND_LINE, KIND_OPERATION, call_of, key_of, kind_of, tag_of};
use super::vectors::Vectors;
use super::{
    Buffers, ClientMemories, CopyMode, Descriptor, Io, Needs, Request, TagShare, Ticket, Token, Waker,
};
use crate::error::{Error, Result};
use crate::pages::Pages;
use crate::report::Reporter;
use io_uring::{opcode, types};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// How often, and how long at most each time, it waits for its lines to end.
const MOST_TURNS: usize = 100;
const MOMENT: Duration = Duration::from_millis(10);

/// See the [module](self).
pub struct LoneQueue {
    ring: Ring,
    data: Data,
    #[cfg(test)]
    shared: Arc<ClientMemories>,
    calls: Calls,
    lines: Lines,
    complaint: Option<String>,
    waker: Waker,
    requests: Vec<Option<Request>>,
    generation: u32,
    taken: Taken,
    _char_dev: File,
}

impl LoneQueue {
    /// A queue of `depth` requests of at most `max_io` bytes, with what their engine needs.
    pub fn new(depth: u16, max_io: u32, needs: Needs, waker: Waker) -> Result<Self> {
        let Needs { files, spare_files, operations, segments, lines } = needs;
        let char_dev =
            File::open("/dev/null").map_err(|error| Error::system("cannot open /dev/null", &error))?;
        let (slots, taken) = Taken::table(char_dev.as_raw_fd(), &files, spare_files);
        let buffers = Buffers::new(TagShare::WHOLE, depth, max_io, Pages::default())?;
        let shared = Arc::new(ClientMemories::new(Reporter::new(|_| {})));
        let data = Data::new(
            CopyMode::Copy,
            buffers,
            Vectors::new(depth, segments),
            0,
            shared.clone(),
            char_dev.as_raw_fd(),
        );
        let ring = Ring::new((u32::from(depth) * u32::from(operations)).clamp(8, 256), &slots)?;
        Ok(Self {
            ring,
            data,
            #[cfg(test)]
            shared,
            calls: Calls::new(depth),
            lines: Lines::new(lines),
            complaint: None,
            waker,
            requests: vec![None; depth.into()],
            generation: 0,
            taken,
            _char_dev: char_dev,
        })
    }

    /// The tag's buffer.
    pub fn buffer(&mut self, tag: u16) -> &mut [u8] {
        let length = self.data.buffers.each();
        // SAFETY: of the queue's own memory; its owner looks only while the tag's request is not served.
        unsafe { self.data.buffers.slice(tag, length) }
    }

    /// The memory of a file is shared with the clients, and has that number.
    #[cfg(test)]
    pub fn share(&mut self, file: File) -> Result<u16> {
        self.shared.add(super::ClientMemory::of(file)?, |_| Ok(0))
    }

    /// A request comes.
    pub fn begin(&mut self, tag: u16, what: Descriptor) {
        assert!(self.requests[usize::from(tag)].is_none(), "the tag is in use");
        self.generation += 1;
        let ticket = Ticket { tag, generation: self.generation, queue: 0 };
        self.requests[usize::from(tag)] = Some(Request { ticket, what });
    }

    /// The means to serve the tag's request.
    pub fn io(&mut self, tag: u16) -> Io<'_> {
        let request = self.requests[usize::from(tag)];
        let request = request.expect("something completed for a request that was answered");
        let Self { data, ring, calls, lines, complaint, .. } = self;
        Io::new(request, data, ring, calls, lines, complaint)
    }

    /// Why a request failed, if its engine said so.
    #[cfg(test)]
    pub fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// The tag's request is answered. Refused, without harm, while operations of it are in the ring, which use its buffer.
    #[must_use]
    pub fn answered(&mut self, tag: u16) -> bool {
        if self.calls.operations(tag) > 0 {
            return false;
        }
        self.calls.forget(tag);
        if let Some(request) = self.requests[usize::from(tag)].take() {
            let result = i32::try_from(request.what.length).unwrap_or(i32::MAX);
            self.data.return_shared(&request, result);
            self.data.copy_shared();
            self.data.finish_shared(&request, result);
        }
        true
    }

    /// What completed in the ring.
    pub fn turn(&mut self, wait: Wait) -> Result<Vec<(u16, Completion)>> {
        self.waker.clear();
        self.ring.enter(wait, 0)?;
        let mut completed = Vec::new();
        for entry in self.ring.completions() {
            let name = entry.user_data();
            match kind_of(name) {
                KIND_LINE => {
                    self.lines.completed(name, entry.result());
                    continue;
                }
                KIND_CANCEL => continue,
                kind => assert_eq!(kind, KIND_OPERATION),
            }
            let completion = Completion { call: call_of(name), key: key_of(name), result: entry.result() };
            completed.push((tag_of(name), completion));
        }
        for (tag, completion) in &completed {
            self.calls.completed(*tag, completion.call);
        }
        line::tell(&mut self.lines, &mut self.ring, &mut self.calls);
        Ok(completed)
    }

    /// The completion for an event outside the ring, if its call still waits.
    pub fn outside(&mut self, what: Outside) -> Option<(u16, Completion)> {
        match what {
            Outside::Done(Token { ticket, call, generation, key }, result) => {
                let asked = self.requests[usize::from(ticket.tag)].map(|request| request.ticket);
                let waits = asked == Some(ticket) && self.calls.is(call, generation);
                waits.then_some((ticket.tag, Completion { call, key, result }))
            }
            Outside::Returned { tag, call } => {
                self.calls.returned(tag, call);
                None
            }
            Outside::Told(line, key, result) => {
                self.lines.told(line, key, result);
                line::tell(&mut self.lines, &mut self.ring, &mut self.calls);
                None
            }
            Outside::Task(task) => {
                let Self { ring, taken, lines, .. } = self;
                task(&mut Files { ring, taken, lines });
                None
            }
        }
    }

    /// One of the calls that go on when all else that a turn brought is done.
    pub fn going_on(&mut self) -> Option<(u16, Completion)> {
        loop {
            while let Some((token, result)) = self.calls.going_on() {
                if let Some(event) = self.outside(Outside::Done(token, result)) {
                    return Some(event);
                }
            }
            if !line::turned(&mut self.lines, &mut self.ring, &mut self.calls) {
                return None;
            }
        }
    }

    /// How many operations are in the ring.
    pub fn operations(&self) -> u32 {
        self.calls.total() + self.lines.operations()
    }

    /// Ends what its lines have in the ring, which uses their memory.
    pub fn end_lines(&mut self) {
        if self.lines.leave(&mut self.ring).is_err() {
            return;
        }
        for _ in 0..MOST_TURNS {
            if self.lines.operations() == 0 {
                return;
            }
            for slot in self.taken.of_backend() {
                let all = types::CancelBuilder::fd(types::Fixed(slot)).all();
                let entry = opcode::AsyncCancel2::new(all).build().user_data(KIND_CANCEL);
                // SAFETY: points to no memory.
                if unsafe { self.ring.push(&entry) }.is_err() {
                    return;
                }
            }
            if self.turn(Wait::AtMost(MOMENT)).is_err() {
                return;
            }
        }
    }
}

impl Drop for LoneQueue {
    fn drop(&mut self) {
        self.end_lines();
        if self.calls.total() > 0 {
            // Its ring has failed: the kernel may still write into the buffers.
            std::mem::forget(self.data.buffers.clone());
        }
    }
}
