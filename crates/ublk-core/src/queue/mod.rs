//! A queue: one ring, one descriptor table, one tag state machine and one buffer pool, owned by one thread.
//!
//! Read the data's path here, top to bottom: [`Queue::offer_all`] gives the driver every tag;
//! [`Queue::turn`] submits what was prepared and waits, in one system call; each [`Event`] it finds is a
//! request or a finished operation of a backend; [`Queue::commit`] prepares the answer that the next turn
//! submits. The caller serves requests between two turns. The commands are in `transport`, the handling of data in `data`: see
//! [`Mode`].

mod buffers;
mod calls;
mod client_copies;
mod client_memory;
mod completer;
mod config;
mod data;
mod descriptors;
mod files;
mod in_flight;
mod io;
mod lease;
mod line;
mod listening;
mod lone;
mod mode;
mod outcome;
mod polling;
pub(crate) mod ring;
mod self_reference;
mod tag_buffers;
mod tag_share;
pub(crate) mod tags;
mod thread_common;
mod transport;
mod user_data;
mod vectors;

pub use crate::request::{Descriptor, Flags, Op, Piece, Request, Scatter, Ticket};
pub use crate::uring::probe as probe_io_uring;
pub use crate::waker::Waker;
pub use buffers::Buffers;
pub(crate) use client_memory::ClientMemories;
pub use client_memory::ClientMemory;
pub(crate) use completer::Outside;
pub use completer::{Completer, Completion, Key, Token};
pub(crate) use config::Config;
pub use config::Needs;
pub use files::Files;
pub use io::{Held, Io, Slot, Step};
pub use lease::Lease;
pub use line::{Line, LineId, LineIo, SharedLine, Stretch};
pub(crate) use lone::LoneQueue;
pub use mode::{CopyMode, Mode, Transport};
pub use outcome::{Errno, Outcome};
pub use ring::Wait;
pub(crate) use tag_share::TagShare;
pub(crate) use tags::Violation;
pub(crate) use thread_common::ThreadCommon;
pub use transport::awaited::Awaited;

use crate::error::{Error, ErrorKind, Result};
use crate::pages::Pages;
use crate::telemetry::Accounts;
use calls::Calls;
use data::Data;
use descriptors::Descriptors;
use files::Taken;
use in_flight::{InFlight, broken};
use io_uring::{cqueue, opcode, types};
use line::Lines;
use listening::poll;
use outcome::result_of;
use polling::Polling;
use ring::Ring;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use transport::Commands;
use user_data::{
    KIND_CANCEL, KIND_COMMAND, KIND_LINE, KIND_LIST, KIND_LISTEN, KIND_MOVE, KIND_OPERATION, KIND_WAKE,
    call_of, key_of, kind_of, tag_of,
};
use vectors::Vectors;

/// An event that a turn of the loop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request to serve.
    Request(Ticket),
    /// An operation of this request's engine has finished.
    Operation(Ticket, Completion),
}

/// Slot of `/dev/ublkcN` in the ring's file table.
const CHAR_DEV: types::Fixed = types::Fixed(0);

/// The most entries that a ring is made for: more operations at a time only take more system calls.
const MOST_ENTRIES: u32 = 8192;

/// How long the driver may take for commands that it completes at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// One of a device's queues. Neither `Send` nor `Sync`: the driver takes a commit only from the task that
/// fetched, and so the type stays on the thread that made it.
///
/// ```compile_fail
/// fn other_thread(queue: ublk_core::queue::Queue) {
///     std::thread::spawn(move || drop(queue));
/// }
/// ```
pub struct Queue {
    // Dropped in this order: the ring ends every command before the memory they refer to goes.
    ring: Ring,
    commands: ManuallyDrop<Commands>,
    in_flight: InFlight,
    data: ManuallyDrop<Data>,
    common: ThreadCommon,
    calls: Calls,
    lines: Lines,
    /// Requests in shared memory that are answered once their data was copied, and their results.
    copying: Vec<(Ticket, i32)>,
    /// Why the last request failed, by its engine.
    complaint: Option<String>,
    polling: Polling,
    woken: bool,
    waker: Waker,
    hands_over: Arc<AtomicBool>,
    taken: Taken,
    /// Another descriptor that wakes a sleeping turn.
    listening: Option<RawFd>,
    heard: bool,
    _char_dev: Arc<OwnedFd>,
    _this_thread_only: PhantomData<*mut ()>,
}

impl Queue {
    /// Sets up the queue with what its engine needs on the calling thread, which must be the one that serves it.
    pub fn open(char_dev: Arc<OwnedFd>, config: Config, needs: Needs) -> Result<Self> {
        let Needs { files, spare_files, operations, segments, lines } = needs;
        let Config {
            index,
            depth,
            part,
            common,
            max_io,
            pages,
            mode,
            #[cfg(feature = "testing")]
            only_by_hand,
            poll: limit,
            shared,
            waker,
            hands_over,
            counters,
            tracer,
        } = config;
        let (slots, taken) = Taken::table(char_dev.as_raw_fd(), &files, spare_files);
        let table = Descriptors::map(char_dev.as_fd(), index, depth)?;
        let pages = if mode.copy == CopyMode::Zero { Pages::default() } else { pages };
        let (share, buffers) = match mode.transport {
            Transport::PerIo => (part, Buffers::new(part, depth, max_io, pages)?),
            Transport::Batch => {
                let whole = TagShare::WHOLE;
                (whole, common.buffers(|| Buffers::new(whole, depth, max_io, pages))?)
            }
        };
        // A tag's answer, and what is moved with it; or its operations.
        let each = if mode.copy == CopyMode::User { 2 } else { 1 }.max(u32::from(operations));
        let entries = (u32::from(share.count(depth)) * each + 2).min(MOST_ENTRIES);
        let mut ring = Ring::new(entries.next_power_of_two().max(8), &slots)?;
        let segments = if mode.copy == CopyMode::Zero && !ring.moves_vectors() { 0 } else { segments };
        let vectors = Vectors::new(depth, segments);
        let data = Data::new(mode.copy, buffers, vectors, index, shared, char_dev.as_raw_fd());
        #[cfg(feature = "testing")]
        let data = data.only_by_hand(only_by_hand);
        if mode.copy == CopyMode::Zero {
            ring.make_slots(depth.into())?;
        }
        poll(&mut ring, waker.fd(), KIND_WAKE)?;
        Ok(Self {
            ring,
            commands: ManuallyDrop::new(Commands::new(mode.transport, index, depth, part.of)?),
            in_flight: InFlight::new(table, depth, index, Accounts::new(index, depth, counters, tracer)),
            data: ManuallyDrop::new(data),
            common,
            calls: Calls::new(depth),
            lines: Lines::new(lines),
            copying: Vec::new(),
            complaint: None,
            polling: Polling::new(limit),
            woken: false,
            waker,
            hands_over,
            taken,
            listening: None,
            heard: false,
            _char_dev: char_dev,
            _this_thread_only: PhantomData,
        })
    }

    /// Offers every tag to the driver, with its buffer, unless another part has. START_DEV completes once all tags of all
    /// queues are.
    pub fn offer_all(&mut self) -> Result<()> {
        self.data.buffers.tags().try_for_each(|tag| self.in_flight.tags.offer(tag)).map_err(broken)?;
        if self.commands.in_common() {
            self.common.clone().offer(|| self.offer())?;
        } else {
            self.offer()?;
        }
        self.commands.join(&mut self.ring)
    }

    fn offer(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        self.commands.offer_all(&mut self.ring, &self.data)?;
        self.turn(Wait::No)?;
        while self.commands.offering() {
            if self.woken || Instant::now() >= until {
                return Err(Error::new(ErrorKind::Timeout, "the driver did not take a queue's tags"));
            }
            self.turn(Wait::AtMost(PATIENCE))?;
        }
        Ok(())
    }

    /// Submits everything prepared and waits, in one system call (more if it busy-polls before it sleeps). Then sorts the
    /// completions into events.
    pub fn turn(&mut self, wait: Wait) -> Result<()> {
        self.answer_copied()?;
        self.in_flight.clear();
        let sure = self.commands.send(&mut self.ring, &mut self.data)? + self.lines.sure();
        let found = self.polling.look(&mut self.ring, wait, sure)?;
        if !found {
            self.ring.enter(wait, sure)?;
        }
        self.in_flight.entered();
        let (mut woken, mut heard, mut unarmed) = (false, false, None);
        for completion in self.ring.completions() {
            let (name, result) = (completion.user_data(), completion.result());
            let kind = kind_of(name);
            match kind {
                KIND_COMMAND | KIND_LIST | KIND_MOVE => {
                    self.commands.completed(kind, &completion, &mut self.in_flight)?;
                }
                KIND_OPERATION => {
                    let (tag, call) = (tag_of(name), call_of(name));
                    self.calls.completed(tag, call);
                    self.in_flight.operated(tag, Completion { call, key: key_of(name), result });
                }
                KIND_LINE => self.lines.completed(name, result),
                // Listened to no more.
                KIND_LISTEN if result == -libc::ECANCELED => {}
                KIND_WAKE | KIND_LISTEN => {
                    if !cqueue::more(completion.flags()) {
                        unarmed = Some(kind);
                    }
                    woken |= kind == KIND_WAKE;
                    heard |= kind == KIND_LISTEN;
                }
                _ => {}
            }
        }
        (self.woken, self.heard) = (woken, heard);
        if woken {
            self.waker.clear();
            if self.hands_over.load(Ordering::SeqCst) {
                self.commands.leave_requests();
                self.in_flight.withdrawn();
            }
        }
        // The kernel may end a poll at any time: what happened meanwhile completes the next one at once.
        match (unarmed, self.listening) {
            (Some(KIND_WAKE), _) => poll(&mut self.ring, self.waker.fd(), KIND_WAKE)?,
            (Some(_), Some(fd)) => poll(&mut self.ring, fd, KIND_LISTEN)?,
            _ => {}
        }
        line::tell(&mut self.lines, &mut self.ring, &mut self.calls);
        self.polling.turned(found, self.in_flight.event(0).is_some());
        self.commands.settle(&mut self.ring, &mut self.data)?;
        self.in_flight.settle()
    }

    /// What the last turn found, by position.
    pub fn event(&self, at: usize) -> Option<Event> {
        self.in_flight.event(at)
    }

    /// The request that `ticket` names. Meaningful while the server owns it.
    pub fn request(&self, ticket: Ticket) -> Request {
        self.in_flight.request(ticket.tag)
    }

    /// The name of the request that the server owns at `tag`, if it owns one.
    pub fn ticket(&self, tag: u16) -> Option<Ticket> {
        self.in_flight.ticket(tag)
    }

    /// The means to serve a request.
    ///
    /// Fails when the request is not, or no longer, the server's.
    pub fn io(&mut self, ticket: Ticket) -> std::result::Result<Io<'_>, Violation> {
        if !self.in_flight.tags.owns(ticket) {
            return Err(Violation::NotOwned(ticket));
        }
        let request = self.in_flight.request(ticket.tag);
        let Self { data, ring, calls, lines, complaint, .. } = self;
        Ok(Io::new(request, data, ring, calls, lines, complaint))
    }

    /// The completion for an event outside the ring, if its call still waits. A task is done here.
    pub(crate) fn outside(&mut self, what: Outside) -> Option<Event> {
        match what {
            Outside::Done(Token { ticket, call, generation, key }, result) => {
                let waits = self.in_flight.tags.owns(ticket) && self.calls.is(call, generation);
                waits.then_some(Event::Operation(ticket, Completion { call, key, result }))
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
                task(&mut self.files());
                None
            }
        }
    }

    /// The files that its ring has open.
    pub(crate) fn files(&mut self) -> Files<'_> {
        Files { ring: &mut self.ring, taken: &mut self.taken, lines: &mut self.lines }
    }

    /// One of the calls that go on when all else that the turn brought is done, if it still waits.
    pub(crate) fn going_on(&mut self) -> Option<Event> {
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

    /// Why the last request failed, if its engine said so.
    pub(crate) fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Ends all parts of a request whose engine has failed.
    pub(crate) fn forget_calls(&mut self, ticket: Ticket) {
        self.calls.forget(ticket.tag);
    }

    /// Answers a request; the next turn sends the answer. Refused, without harm, if the server does not own the request (any
    /// more), or the backend still works on it.
    pub fn commit(&mut self, ticket: Ticket, outcome: Outcome) -> Result<()> {
        if self.in_flight.tags.owns(ticket) && self.operating(ticket) {
            return Err(broken(Violation::NotOwned(ticket)));
        }
        self.in_flight.tags.commit(ticket).map_err(broken)?;
        let request = self.in_flight.request(ticket.tag);
        let mut result = result_of(&request.what, outcome);
        if request.what.shared.is_some() {
            if self.data.return_shared(&request, result) {
                self.copying.push((ticket, result));
                return Ok(());
            }
            result = self.data.finish_shared(&request, result);
        }
        self.answer(ticket, result)
    }

    fn answer(&mut self, ticket: Ticket, result: i32) -> Result<()> {
        self.in_flight.accounts.answer(ticket.tag, result, self.calls.take_faults(ticket.tag));
        self.data.unregister(&mut self.ring, ticket.tag)?;
        self.commands.answer(&mut self.ring, &mut self.data, ticket.tag, result)
    }

    /// Copies data between shared memory and this process, for all requests together, and answers those that waited for it.
    fn answer_copied(&mut self) -> Result<()> {
        self.data.copy_shared();
        for at in 0..self.copying.len() {
            let (ticket, result) = self.copying[at];
            let request = self.in_flight.request(ticket.tag);
            let result = self.data.finish_shared(&request, result);
            self.answer(ticket, result)?;
        }
        self.copying.clear();
        Ok(())
    }

    /// Whether operations for this request are in the ring.
    pub fn operating(&self, ticket: Ticket) -> bool {
        self.calls.operations(ticket.tag) > 0
    }

    /// Whether every tag has ended and all answers were sent: the device was stopped.
    pub fn settled(&self) -> bool {
        self.in_flight.tags.settled() && self.calls.total() == 0 && self.commands.quiet()
    }

    /// How many operations of the backend use the queue's or the backend's memory: in the ring, or elsewhere on
    /// [lent](Io::lend) data.
    pub fn operations(&self) -> u32 {
        self.calls.total() + self.lines.operations()
    }

    /// Whether none of them is in the ring.
    pub(crate) fn ring_is_done(&self) -> bool {
        self.calls.ring_is_done() && self.lines.operations() == 0
    }

    /// Whether no operation of a line is in the ring.
    pub(crate) fn lines_are_quiet(&self) -> bool {
        self.lines.operations() == 0
    }

    /// Asks the kernel to end the backend's operations early. The next turn tells it.
    pub fn cancel_operations(&mut self) -> Result<()> {
        self.lines.leave(&mut self.ring)?;
        for slot in self.taken.of_backend() {
            cancel_all(&mut self.ring, slot)?;
        }
        Ok(())
    }

    /// The tags whose requests are not answered.
    pub(crate) fn owned(&self) -> Vec<u16> {
        self.data.buffers.tags().filter(|tag| self.in_flight.ticket(*tag).is_some()).collect()
    }
}

/// Asks the kernel to end all operations on the file of a slot early.
fn cancel_all(ring: &mut Ring, slot: u32) -> Result<()> {
    let all = types::CancelBuilder::fd(types::Fixed(slot)).all();
    let entry = opcode::AsyncCancel2::new(all).build().user_data(KIND_CANCEL);
    // SAFETY: points to no memory.
    unsafe { ring.push(&entry) }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.operations() > 0 || self.in_flight.tags.offered() > 0 || !self.commands.quiet() {
            // The kernel may still write to the buffers, and cancels in its own time: they are never reused.
            return;
        }
        // The kernel frees a ring later: deleting the device or unmounting its file would wait for that.
        self.ring.release_files();
        // SAFETY: dropped once, here; nothing in the kernel refers to their memory any more: the lists are the ring's,
        // but nobody is left to put something there.
        unsafe {
            ManuallyDrop::drop(&mut self.commands);
            ManuallyDrop::drop(&mut self.data);
        }
    }
}
