//! What an engine does in the ring for no single request: a connection that it keeps, on which many requests travel together. An
//! operation of a request belongs to a call and ends before that is answered; one of a line belongs to the line, may use the
//! data of many calls, and may be in the ring while there is no request at all.

use super::calls::{Call, Calls};
use super::completer::{Key, Token};
use super::files::Epoch;
use super::io::Slot;
use super::ring::Ring;
use super::user_data;
use crate::error::Result;
use io_uring::{opcode, squeue, types};
use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

/// The queue's name for a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineId(pub(super) u16);

impl LineId {
    /// The first of a queue.
    pub(crate) const FIRST: Self = Self(0);

    pub(crate) fn after(self, lines: usize) -> Self {
        Self(self.0 + u16::try_from(lines).unwrap_or(u16::MAX))
    }
}

/// An engine's side of a line, on the queue's thread.
pub trait Line {
    /// An operation of it has completed, or a [`Completer`](super::Completer) has told it something. If the queue is
    /// [left](LineIo::leaving), no other operation may be begun.
    fn completed(&mut self, io: &mut LineIo<'_>, key: Key, result: i32);

    /// All else that the turn brought is done: for what is done once for all its calls. Called if somebody
    /// [asked](super::Io::line_is_due) for it.
    fn turned(&mut self, io: &mut LineIo<'_>);
}

/// A line, as its engine and its queue share it.
pub type SharedLine = Rc<RefCell<dyn Line>>;

/// The data of a piece, for operations of a line. No reference to it exists while the line [uses](LineIo::uses) it.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    pub(super) address: *mut u8,
    pub(super) length: usize,
    pub(super) tag: u16,
    pub(super) call: Call,
}

impl Stretch {
    /// Of a call without data.
    pub(super) fn empty(tag: u16, call: Call) -> Self {
        Self { address: std::ptr::NonNull::dangling().as_ptr(), length: 0, tag, call }
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Where it begins: valid until the call is answered, and longer while a line uses it.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Copies `data` into it, from its byte `at` on.
    ///
    /// # Panics
    /// If it does not fit.
    ///
    /// # Safety
    /// Its call waits: afterwards the memory is another request's.
    pub unsafe fn put(&mut self, at: usize, data: &[u8]) {
        assert!(at <= self.length && data.len() <= self.length - at, "it is longer than the data");
        // SAFETY: in bounds by the assertion; the tag's buffer, which no reference sees while the call waits, as the caller promises.
        unsafe { self.address.add(at).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }

    /// Fills a part of it with zeroes.
    ///
    /// # Panics
    /// If it has fewer bytes.
    ///
    /// # Safety
    /// As [`put`](Self::put).
    pub unsafe fn zero(&mut self, at: usize, length: usize) {
        assert!(at <= self.length && length <= self.length - at, "it is longer than the data");
        // SAFETY: as in put().
        unsafe { self.address.add(at).write_bytes(0, length) };
    }

    /// Copies from its byte `at` on into `data`.
    ///
    /// # Panics
    /// If it has fewer bytes.
    ///
    /// # Safety
    /// As [`put`](Self::put).
    pub unsafe fn get(&self, at: usize, data: &mut [u8]) {
        assert!(at <= self.length && data.len() <= self.length - at, "it is shorter than what is wanted");
        // SAFETY: as in put().
        unsafe { data.as_mut_ptr().copy_from_nonoverlapping(self.address.add(at), data.len()) };
    }
}

/// All lines of a queue.
#[derive(Default)]
pub struct Lines {
    lines: Vec<Entry>,
    /// Which of them want to be told that the turn is done.
    due: Vec<LineId>,
    /// What completed in the last turn, to be told.
    completed: Vec<(LineId, Key, i32)>,
    /// Operations in the ring.
    operations: u32,
    /// The clocks of lines, with what the kernel reads when it takes them.
    clocks: Vec<Clock>,
    /// How many operations were added that complete as soon as they are submitted, and after which nothing is to be done.
    sure: u32,
    leaving: bool,
}

/// A line, and whose it is.
struct Entry {
    /// `None`: it has ended.
    line: Option<SharedLine>,
    epoch: Epoch,
    /// Its operations in the ring.
    operations: u32,
    /// Its engine is used no more: no operation is begun.
    retired: bool,
}

impl Entry {
    fn new(line: SharedLine, epoch: Epoch) -> Self {
        Self { line: Some(line), epoch, operations: 0, retired: false }
    }
}

/// A time for which a line waits.
struct Clock {
    line: LineId,
    key: Key,
    time: Box<types::Timespec>,
    running: bool,
}

impl Lines {
    pub fn new(lines: Vec<SharedLine>) -> Self {
        Self { lines: lines.into_iter().map(|line| Entry::new(line, 0)).collect(), ..Self::default() }
    }

    pub fn next(&self) -> LineId {
        LineId::FIRST.after(self.lines.len())
    }

    pub fn add(&mut self, line: SharedLine, epoch: Epoch) {
        self.lines.push(Entry::new(line, epoch));
    }

    fn line(&self, id: LineId) -> Option<SharedLine> {
        self.lines.get(usize::from(id.0))?.line.clone()
    }

    /// The lines of some engines begin nothing more. What waits for a time ends with the next turn, the rest with its files.
    pub fn retire(&mut self, ring: &mut Ring, of: &impl Fn(Epoch) -> bool) -> Result<()> {
        for entry in &mut self.lines {
            entry.retired |= of(entry.epoch);
        }
        let lines = &self.lines;
        let retired = |line: LineId| lines.get(usize::from(line.0)).is_some_and(|entry| entry.retired);
        for clock in self.clocks.iter().filter(|clock| clock.running && retired(clock.line)) {
            cancel(ring, clock.line, clock.key)?;
        }
        Ok(())
    }

    /// Drops the lines of retired engines, except those with an operation in the ring. Returns whether none are left.
    pub fn release(&mut self, of: &impl Fn(Epoch) -> bool) -> bool {
        let mut theirs = self.lines.iter_mut().filter(|entry| of(entry.epoch));
        if theirs.any(|entry| entry.operations > 0) {
            return false;
        }
        let theirs = self.lines.iter_mut().filter(|entry| of(entry.epoch));
        theirs.for_each(|entry| entry.line = None);
        true
    }

    #[inline]
    pub fn due(&mut self, line: LineId) {
        if !self.due.contains(&line) {
            self.due.push(line);
        }
    }

    /// An operation of a line has completed in the ring. It is told by [`tell`].
    #[inline]
    pub fn completed(&mut self, name: u64, result: i32) {
        self.operations -= 1;
        let (line, key) = (LineId(user_data::tag_of(name)), user_data::key_of(name));
        if let Some(entry) = self.lines.get_mut(usize::from(line.0)) {
            entry.operations -= 1;
        }
        if result == -libc::ETIME || result == -libc::ECANCELED {
            let ended = self.clocks.iter_mut().find(|clock| (clock.line, clock.key) == (line, key));
            ended.into_iter().for_each(|clock| clock.running = false);
        }
        self.completed.push((line, key, result));
    }

    /// Something that was told from another thread.
    pub fn told(&mut self, line: LineId, key: Key, result: i32) {
        self.completed.push((line, key, result));
    }

    /// How many operations are in the ring.
    pub fn operations(&self) -> u32 {
        self.operations
    }

    /// For how many completions a turn need not return: they come at once, of what was added since the last turn.
    #[inline]
    pub fn sure(&mut self) -> u32 {
        std::mem::take(&mut self.sure)
    }

    /// From here on no operation is begun. The next turn ends those that wait for a time; others end with their files.
    pub fn leave(&mut self, ring: &mut Ring) -> Result<()> {
        self.leaving = true;
        for clock in self.clocks.iter().filter(|clock| clock.running) {
            cancel(ring, clock.line, clock.key)?;
        }
        Ok(())
    }
}

fn cancel(ring: &mut Ring, line: LineId, key: Key) -> Result<()> {
    let entry = opcode::AsyncCancel::new(user_data::line(line.0, key)).build();
    // SAFETY: points to no memory.
    unsafe { ring.push(&entry.user_data(user_data::KIND_CANCEL)) }
}

/// Tells the lines what has completed. Calls go on in the same turn.
#[inline]
pub fn tell(lines: &mut Lines, ring: &mut Ring, calls: &mut Calls) {
    if lines.completed.is_empty() {
        return;
    }
    let completed = std::mem::take(&mut lines.completed);
    for (id, key, result) in &completed {
        if let Some(line) = lines.line(*id) {
            line.borrow_mut().completed(&mut LineIo { id: *id, lines, ring, calls }, *key, *result);
        }
    }
    keep(&mut lines.completed, completed);
}

/// Tells the lines that asked for it that all else is done. Whether there were any: calls may go on then.
#[inline]
pub fn turned(lines: &mut Lines, ring: &mut Ring, calls: &mut Calls) -> bool {
    if lines.due.is_empty() {
        return false;
    }
    let due = std::mem::take(&mut lines.due);
    for id in &due {
        if let Some(line) = lines.line(*id) {
            line.borrow_mut().turned(&mut LineIo { id: *id, lines, ring, calls });
        }
    }
    keep(&mut lines.due, due);
    true
}

/// Gives a list its room back, with what was added meanwhile.
fn keep<T>(list: &mut Vec<T>, mut before: Vec<T>) {
    before.clear();
    before.append(list);
    *list = before;
}

/// What a line can do in its queue.
pub struct LineIo<'q> {
    id: LineId,
    lines: &'q mut Lines,
    ring: &'q mut Ring,
    calls: &'q mut Calls,
}

impl LineIo<'_> {
    /// Whether the queue is being left, or the line's engine is used no more: nothing may be begun.
    pub fn leaving(&self) -> bool {
        self.lines.leaving || self.lines.lines.get(usize::from(self.id.0)).is_none_or(|entry| entry.retired)
    }

    /// The call goes on, with this result: 0 or more, or a negative error number.
    #[inline]
    pub fn go_on(&mut self, token: Token, result: i32) {
        self.calls.goes_on_later(token, result);
    }

    /// An operation of the line is going to use the data: its request is not answered before that has
    /// [ended](Self::used).
    #[inline]
    pub fn uses(&mut self, data: &Stretch) {
        self.calls.started(data.tag, data.call);
    }

    /// It does not use it any more.
    #[inline]
    pub fn used(&mut self, data: &Stretch) {
        self.calls.completed(data.tag, data.call);
    }

    /// Puts another file in the place of one of the engine's that no operation uses.
    pub fn replace_file(&mut self, slot: Slot, file: BorrowedFd<'_>) -> Result<()> {
        self.ring.set_file(slot.0, file.as_raw_fd())
    }

    /// Receives what comes next on a socket, at least a byte.
    ///
    /// # Safety
    /// `length` bytes at `address` are valid, and not used otherwise, until the operation has completed, even if engine and
    /// queue are dropped before.
    pub unsafe fn receive(&mut self, socket: Slot, address: *mut u8, length: u32, key: Key) -> Result<()> {
        let entry = opcode::Recv::new(types::Fixed(socket.0), address, length).build();
        // SAFETY: the caller's promise.
        unsafe { self.submit(entry, key) }
    }

    /// The same into the places of a message.
    ///
    /// # Safety
    /// As [`receive`](Self::receive), for the message and all that it points to.
    pub unsafe fn receive_message(
        &mut self,
        socket: Slot,
        message: *mut libc::msghdr,
        key: Key,
    ) -> Result<()> {
        let entry = opcode::RecvMsg::new(types::Fixed(socket.0), message).build();
        // SAFETY: the caller's promise.
        unsafe { self.submit(entry, key) }
    }

    /// Sends a message on a socket: all of it, unless the kernel has to end it early.
    ///
    /// # Safety
    /// The message and all that it points to are valid and not written to until the operation has completed, even if engine
    /// and queue are dropped before.
    pub unsafe fn send_message(
        &mut self,
        socket: Slot,
        message: *const libc::msghdr,
        key: Key,
    ) -> Result<()> {
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL).cast_unsigned();
        let entry = opcode::SendMsg::new(types::Fixed(socket.0), message).flags(flags).build();
        // SAFETY: the caller's promise.
        unsafe { self.submit(entry, key) }
    }

    /// Sends of a message what the socket takes at once. `sure`: when it is sent, nothing is to be done before something else
    /// completes: so the turn does not end with it, which saves a system call.
    ///
    /// # Safety
    /// As [`send_message`](Self::send_message).
    pub unsafe fn send_now(
        &mut self,
        socket: Slot,
        message: *const libc::msghdr,
        key: Key,
        sure: bool,
    ) -> Result<()> {
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT).cast_unsigned();
        let entry = opcode::SendMsg::new(types::Fixed(socket.0), message).flags(flags).build();
        // SAFETY: the caller's promise.
        unsafe { self.submit(entry, key)? };
        self.lines.sure += u32::from(sure);
        Ok(())
    }

    /// Tells the line when so much time has passed, with that key, of which one is running at most. With the ring's first turn
    /// after that, so it costs nothing meanwhile.
    pub fn after(&mut self, time: Duration, key: Key) -> Result<()> {
        let line = self.id;
        self.lines.clocks.retain(|clock| clock.running || (clock.line, clock.key) != (line, key));
        let clock = Clock { line, key, time: Box::new(types::Timespec::from(time)), running: true };
        let entry = opcode::Timeout::new(&raw const *clock.time).build();
        self.lines.clocks.push(clock);
        // SAFETY: the time stays where it is for as long as the clock is running, and the kernel copies it when it takes the entry.
        // The clocks live as long as the queue, and no entry is submitted when that is dropped.
        unsafe { self.submit(entry, key) }
    }

    /// Has the line's operation with that key end early. It completes as any other.
    pub fn cancel(&mut self, key: Key) -> Result<()> {
        cancel(self.ring, self.id, key)
    }

    /// # Safety
    /// As [`Ring::push`].
    unsafe fn submit(&mut self, entry: squeue::Entry, key: Key) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(&entry.user_data(user_data::line(self.id.0, key)))? };
        self.lines.operations += 1;
        if let Some(entry) = self.lines.lines.get_mut(usize::from(self.id.0)) {
            entry.operations += 1;
        }
        Ok(())
    }
}
