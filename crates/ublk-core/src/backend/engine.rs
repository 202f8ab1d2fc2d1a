//! The engine of one queue, which serves its requests, and the [`Site`] that it is created with.

use super::{Backend, Stages};
use crate::error::Result;
use crate::queue::{Completer, Completion, CopyMode, Io, LineId, Needs, Piece, SharedLine, Slot, Step};
use crate::report::Reporter;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Serves the requests of one queue. It never blocks: operations that would block go to the ring or to other threads.
///
/// A request is a call, and so is each part that a layer asks of a disk [below](Below). Each operation that a call waits for
/// has a key, by which the engine recognizes its completion.
pub trait Engine {
    /// Starts a request or a part of one.
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step;

    /// Continues after an operation that the call waited for has completed.
    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let _ = (io, completion);
        Step::Done(Err(libc::EIO))
    }

    /// The engine that is to be in its place from here on, if there is one and nothing that this one has to do with is under
    /// way. This one is dropped then.
    fn successor(&mut self) -> Option<Box<dyn Engine>> {
        None
    }
}

/// The queue that an engine is created for.
#[derive(Debug)]
pub struct Site {
    depth: u16,
    max_io: u32,
    durable: bool,
    reader: bool,
    copy: CopyMode,
    stages: Stages,
    completer: Completer,
    reporter: Reporter,
    needs: Needs,
    /// The slot of the first of its files.
    first: u32,
    /// The name of the first of its lines.
    first_line: LineId,
    /// How many disks the engine that is being created has below it.
    below: u16,
    /// How many engines are above it.
    level: u16,
}

impl Site {
    /// A queue of `depth` requests of at most `max_io` bytes of data.
    pub fn new(depth: u16, max_io: u32, durable: bool, completer: Completer, reporter: Reporter) -> Self {
        let needs = Needs::default();
        // /dev/ublkcN has the slot before.
        let (reader, first, below, level) = (false, 1, 0, 0);
        let (copy, stages, first_line) = (CopyMode::Copy, Stages::default(), LineId::FIRST);
        Self {
            depth,
            max_io,
            durable,
            reader,
            copy,
            stages,
            completer,
            reporter,
            needs,
            first,
            first_line,
            below,
            level,
        }
    }

    /// For a queue of a device's: how it moves data, and the stages of the device's disk.
    #[must_use]
    pub(crate) fn of_device(self, copy: CopyMode, stages: Stages) -> Self {
        Self { copy, stages, ..self }
    }

    /// For a [reader](super::reader::Reader), which serves no queue of the device.
    #[must_use]
    pub(crate) fn of_reader(self) -> Self {
        Self { reader: true, ..self }
    }

    /// Whether it is a reader's.
    pub(crate) fn is_of_reader(&self) -> bool {
        self.reader
    }

    /// For a queue that serves already: its ring gets the engine's files from this slot on.
    #[must_use]
    pub(crate) fn with_files_at(self, slot: Slot) -> Self {
        Self { first: slot.0, ..self }
    }

    /// For a queue that serves already and has other lines.
    #[must_use]
    pub(crate) fn with_lines_at(self, line: LineId) -> Self {
        Self { first_line: line, ..self }
    }

    /// The queue's depth: its maximum number of requests in flight.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Bytes: the most data that a request has.
    pub fn max_io(&self) -> u32 {
        self.max_io
    }

    /// Whether the device has no write cache: every write must be durable before it is committed.
    pub fn durable(&self) -> bool {
        self.durable
    }

    /// Who copies the data of requests.
    pub fn copy_mode(&self) -> CopyMode {
        self.copy
    }

    /// Engines that are made from here on get the data otherwise.
    pub(super) fn set_copy_mode(&mut self, copy: CopyMode) {
        self.copy = copy;
    }

    /// The stages of the disk while it is served.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Whether other engines serve parts of the same requests, or may leave something in their buffers.
    pub fn shared(&self) -> bool {
        self.level > 0
    }

    /// Reports completions from outside the ring.
    pub fn completer(&self) -> Completer {
        self.completer.clone()
    }

    /// Reports errors that belong to no request to the device's owner.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// A slot of the ring's file table for a file that the engine uses. The ring keeps the file open.
    pub fn file(&mut self, file: BorrowedFd<'_>) -> Slot {
        let file = file.as_raw_fd();
        let files = &mut self.needs.files;
        let at = files.iter().position(|other| *other == file).unwrap_or_else(|| {
            files.push(file);
            files.len() - 1
        });
        #[expect(clippy::cast_possible_truncation, reason = "a process has fewer open files")]
        let slot = at as u32 + self.first;
        Slot(slot)
    }

    /// The queue serves a line of the engine's: what it does in the ring for no single request.
    pub fn line(&mut self, line: SharedLine) -> LineId {
        let id = self.first_line.after(self.needs.lines.len());
        self.needs.lines.push(line);
        id
    }

    /// How many more files the engine may [add](crate::queue::Files::add) to the ring while it serves.
    pub fn spare_files(&mut self, files: u16) {
        self.needs.spare_files += files;
    }

    /// The engine of a disk below the one that is being made.
    pub fn below(&mut self, disk: Arc<dyn Backend>) -> Result<Below> {
        let index = self.below;
        self.level += 1;
        self.below = 0;
        let engine = disk.engine(self);
        self.level -= 1;
        self.below = index + 1;
        Ok(Below { engine: engine?, index })
    }

    /// How many operations a request may have in the ring at a time. More of them only cost more system calls.
    pub fn operations(&mut self, a_request: u16) {
        self.needs.operations = self.needs.operations.max(a_request);
    }

    /// How many places of a request's data its operations name, where pieces are [scattered](Piece::scatter). If more would
    /// be needed, an operation has the first places only.
    pub fn segments(&mut self, a_request: u16) {
        self.needs.segments = self.needs.segments.max(a_request);
    }

    /// What the engine needs of its queue.
    pub fn needs(self) -> Needs {
        self.needs
    }
}

/// The engine of a disk below another.
pub struct Below {
    engine: Box<dyn Engine>,
    index: u16,
}

/// The outcome of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartDone {
    /// The number that it was started with.
    pub number: u32,
    /// Its outcome, or that it still waits.
    pub step: Step,
}

impl Below {
    /// The engine of a disk that came while the queue served; `index`: how many the engine above has below it already.
    pub(crate) fn added(engine: Box<dyn Engine>, index: u16) -> Self {
        Self { engine, index }
    }

    /// The engine itself.
    pub(super) fn into_engine(self) -> Box<dyn Engine> {
        self.engine
    }

    /// Passes the piece of the current call on to the disk: the disk's answer is the call's answer. All completions for the
    /// call must be [passed on](Self::pass_on) to the disk until it has finished.
    #[inline]
    pub fn pass(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        self.engine.start(io, piece)
    }

    /// Continues a piece that was [passed](Self::pass) to the disk.
    #[inline]
    pub fn pass_on(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        self.engine.resume(io, completion)
    }

    /// Starts a part on the disk, as a new call. A part is done whole, or fails.
    pub fn start(&mut self, io: &mut Io<'_>, number: u32, piece: Piece) -> Step {
        let length = piece.data_length() as u64;
        let Some(before) = io.enter(self.index, number, length) else {
            return Step::Done(Err(libc::ENOMEM));
        };
        let step = self.engine.start(io, piece);
        io.leave(before, step != Step::Pending);
        whole(step, length)
    }

    /// Continues a part that was [started](Self::start), if the completion belongs to one of this disk's parts.
    pub fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Option<PartDone> {
        let hop = io.hop(&completion).filter(|hop| hop.below == self.index)?;
        let before = io.enter_again(&hop);
        let step = self.engine.resume(io, completion);
        io.leave(before, step != Step::Pending);
        Some(PartDone { number: hop.number, step: whole(step, hop.length) })
    }

    /// Which of several disks a completion belongs to, in the order of their creation; `None`: to the engine itself.
    pub fn of(io: &Io<'_>, completion: &Completion) -> Option<usize> {
        io.hop(completion).map(|hop| hop.below.into())
    }
}

/// The error for data that was read or written only in part.
fn whole(step: Step, length: u64) -> Step {
    match step {
        Step::Done(Ok(done)) if length > 0 && u64::from(done) != length => Step::Done(Err(libc::EIO)),
        step => step,
    }
}

/// What an engine keeps of each call.
#[derive(Debug)]
pub struct PerCall<T>(Vec<T>);

impl<T: Default> PerCall<T> {
    /// For a queue of `depth` requests.
    pub fn new(depth: u16) -> Self {
        Self((0..depth).map(|_| T::default()).collect())
    }

    /// Of every call so far.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Of the request at a tag.
    pub(super) fn set(&mut self, tag: u16, value: T) {
        let at = usize::from(tag);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, T::default);
        }
        self.0[at] = value;
    }

    /// Of the current call. It may be an earlier call's that had the same number.
    #[inline]
    pub fn of(&mut self, io: &Io<'_>) -> &mut T {
        let call = io.call();
        if call >= self.0.len() {
            self.0.resize_with(call + 1, T::default);
        }
        &mut self.0[call]
    }
}
