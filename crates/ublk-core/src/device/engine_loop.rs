//! Serves a queue with an engine: passes requests and completions of a turn to the engine, and its outcomes to the queue. The
//! thread decides when to call it, and sleeps in between.

use crate::backend::{Engine, Io, Piece, Step};
use crate::error::Result;
use crate::queue::{Completer, Descriptor, Errno, Event, Op, Outside, Queue, Ticket, Wait};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The device was stopped, and everything owed was answered.
    Stopped,
    /// The queue was woken to be given up.
    Left,
}

/// What a queue's owner has to say.
pub trait Owner {
    /// Whether the queue is to be left at once, settled or not. Asked when the queue was woken.
    fn given_up(&self) -> bool;

    /// The engine panicked or could not serve a request, which got an error: one line.
    fn failed(&self, message: String);

    /// The queue is between two requests: another engine may take the place of its engine. Called when the queue was woken.
    fn between(&self, turn: &mut Between<'_>) {
        let _ = turn;
    }
}

/// A queue between two requests.
pub struct Between<'q> {
    /// What serves it. It may have requests in flight, whose completions go to what is in its place then.
    pub engine: &'q mut Box<dyn Engine>,
    pub completer: &'q Completer,
    pub queue: &'q mut Queue,
}

/// How long a queue that is given up waits for its engine's operations.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one queue, whose tags have been offered, with an engine.
pub struct EngineLoop {
    engine: Box<dyn Engine>,
    completer: Completer,
    /// What has happened outside the ring. Empty between two turns.
    outside: Vec<Outside>,
    /// Requests that failed while their operations were in the ring. A list: it is as good as always empty, and
    /// looked at for every request.
    failed: Vec<(Ticket, Errno)>,
    /// Until when operations of a queue that is left may take.
    leaving: Option<Instant>,
}

impl EngineLoop {
    /// With nothing served yet. `completer`: the one that the engine was made with.
    pub fn new(engine: Box<dyn Engine>, completer: Completer) -> Self {
        Self { engine, completer, outside: Vec::new(), failed: Vec::new(), leaving: None }
    }

    /// One turn of the queue, and the work that it brought. How serving ended, if it did.
    pub fn step(&mut self, queue: &mut Queue, wait: Wait, owner: &dyn Owner) -> Result<Option<Ended>> {
        queue.turn(wait)?;
        self.work(queue, owner)
    }

    /// The work that the last turn brought. The next one tells the driver what was done.
    pub fn work(&mut self, queue: &mut Queue, owner: &dyn Owner) -> Result<Option<Ended>> {
        if let Some(until) = self.leaving {
            let over = self.operations_are_done(queue) || Instant::now() >= until;
            let how = if queue.settled() { Ended::Stopped } else { Ended::Left };
            return Ok(over.then_some(how));
        }
        let mut at = 0;
        while let Some(event) = queue.event(at) {
            at += 1;
            self.serve(queue, event, owner)?;
        }
        self.go_on(queue, owner)?;
        if queue.settled() {
            return self.end_lines(queue).map(|ended| ended.then_some(Ended::Stopped));
        }
        if queue.woken() {
            if owner.given_up() {
                return self.leave(queue).map(|gone| gone.then_some(Ended::Left));
            }
            owner.between(&mut Between { engine: &mut self.engine, completer: &self.completer, queue });
            self.completer.take(&mut self.outside);
            self.outside.reverse();
            while let Some(what) = self.outside.pop() {
                if let Some(event) = queue.outside(what) {
                    self.serve(queue, event, owner)?;
                }
            }
            self.go_on(queue, owner)?;
        }
        Ok(None)
    }

    /// Has the calls go on that left something to be done for all of them.
    #[inline]
    fn go_on(&mut self, queue: &mut Queue, owner: &dyn Owner) -> Result<()> {
        while let Some(event) = queue.going_on() {
            self.serve(queue, event, owner)?;
        }
        Ok(())
    }

    /// Ends what the engine still has in the ring for no request. Whether there is nothing.
    fn end_lines(&mut self, queue: &mut Queue) -> Result<bool> {
        if queue.lines_are_quiet() {
            return Ok(true);
        }
        self.leave(queue)
    }

    /// Begins to leave the queue, settled or not: only the engine's operations are waited for, since they use the
    /// queue's memory. Returns whether none are left.
    pub fn leave(&mut self, queue: &mut Queue) -> Result<bool> {
        if queue.operations() == 0 {
            return Ok(true);
        }
        queue.cancel_operations()?;
        self.leaving = Some(Instant::now() + LEAVE_TIMEOUT);
        Ok(self.operations_are_done(queue))
    }

    /// Whether nothing uses the memory of the queue, which is left, any more.
    fn operations_are_done(&mut self, queue: &mut Queue) -> bool {
        if queue.ring_is_done() {
            self.engine = Box::new(Gone); // Futures that it polled give back what was lent to them.
        }
        self.completer.take(&mut self.outside);
        for what in self.outside.drain(..) {
            if !matches!(what, Outside::Task(_) | Outside::Told(..)) {
                queue.outside(what);
            }
        }
        queue.operations() == 0
    }

    /// Until when the queue may sleep: it is left then.
    pub fn deadline(&self) -> Option<Instant> {
        self.leaving
    }

    fn serve(&mut self, queue: &mut Queue, event: Event, owner: &dyn Owner) -> Result<()> {
        let ticket = match event {
            Event::Request(ticket) | Event::Operation(ticket, _) => ticket,
        };
        let step = if self.failed.is_empty() {
            self.answer(queue, event, ticket, owner)
        } else {
            match self.failed.iter().position(|(request, _)| *request == ticket) {
                None => self.answer(queue, event, ticket, owner),
                Some(_) if queue.operating(ticket) => Step::Pending,
                Some(at) => {
                    queue.forget_calls(ticket);
                    Step::Done(Err(self.failed.swap_remove(at).1))
                }
            }
        };
        match step {
            Step::Done(outcome) => queue.commit(ticket, outcome),
            Step::Pending => Ok(()),
        }
    }

    fn answer(&mut self, queue: &mut Queue, event: Event, ticket: Ticket, owner: &dyn Owner) -> Step {
        let Ok(mut io) = queue.io(ticket) else {
            return Step::Pending; // answered meanwhile: nothing is owed
        };
        let (what, engine) = (io.request.what, &mut self.engine);
        let answer = catch_unwind(AssertUnwindSafe(|| match event {
            Event::Request(_) if matches!(what.op, Op::Other(_)) => Step::Done(Err(libc::EOPNOTSUPP)),
            Event::Request(_) => engine.start(&mut io, what.piece()),
            Event::Operation(_, completion) => engine.resume(&mut io, completion),
        }));
        if let Some(why) = queue.complaint() {
            owner.failed(format!("the backend cannot serve {}: {why}", told(&what)));
        }
        let errno = match answer {
            Ok(Step::Done(Err(errno))) if queue.operating(ticket) => errno,
            Ok(Step::Done(Ok(_))) if queue.operating(ticket) => {
                owner.failed(format!("the backend answered {} while it worked on it", told(&what)));
                libc::EIO
            }
            Ok(step) => return step,
            Err(panic) => {
                let why = panic
                    .downcast_ref::<&str>()
                    .map(|why| (*why).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                owner.failed(format!("the backend panicked at {}: {why}", told(&what)));
                libc::EIO
            }
        };
        if queue.operating(ticket) {
            // What it left in the ring uses the buffer, and has to come back first.
            self.failed.push((ticket, errno));
            return Step::Pending;
        }
        queue.forget_calls(ticket);
        Step::Done(Err(errno))
    }
}

/// In the place of the engine of a queue that is left.
pub struct Gone;

impl Engine for Gone {
    fn start(&mut self, _: &mut Io<'_>, _: Piece) -> Step {
        Step::Done(Err(libc::EIO))
    }
}

/// Describes a request.
fn told(what: &Descriptor) -> String {
    format!("{:?} of {} bytes at {}", what.op, what.length, what.offset)
}
