//! Serves one queue of a volume: what is in the local file goes through the ring, whatever the store does.

use super::fill::Filling;
use super::format::{BLOCK, Kind};
use super::layout::Layout;
use super::ring::SPAN;
use super::state::{Found, Pin, Waiter, Way, Writing};
use super::volume::Volume;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::runtime::Handle;
use ublk_core::backend::{
    Backend, Below, Completer, Completion, CopyMode, Engine, Errno, Flags, Io, Key, Op, Outcome, PerCall,
    Piece, Site, Step,
};
use ublk_core::error::{Error, Result};

/// A call waits for one thing outside the ring at a time.
const KEY: Key = 0;
/// The most operations of a request that the ring has room for: more only take more system calls.
const OPERATIONS: u16 = 8;
/// Bytes: the most that is fetched in advance for somebody who reads one part of the disk after the other.
const MOST_AHEAD: u64 = 16 << 20;
/// Reads that follow each other before anything is.
const STREAK: u32 = 8;
/// Bytes: how far apart reads are that follow each other, which come in any order.
const NEAR: u64 = 2 << 20;
/// How often a read looks again because what it waited for is not there any more.
const PATIENCE: u32 = 64;

/// How a call is served.
#[derive(Default)]
enum Phase {
    /// By the local file, in parts.
    Read { waiting: u32, error: Option<Errno> },
    /// By what puts the rest of its first and last block into their new place.
    Fill(Writing, Filling),
    /// By the local file.
    Write(Writing),
    /// By the note of what was written, which is written for all calls of the turn at once.
    Note,
    /// By chunks that are fetched: how many are missing still, and the last error number.
    Fetch { left: u32, error: i32 },
    /// By room in the local file, or by the map, which is being copied: then it begins again.
    Room,
    /// By a flush.
    Flush,
    #[default]
    Idle,
}

#[derive(Default)]
struct Call {
    piece: Option<Piece>,
    phase: Phase,
    pins: Vec<Pin>,
    looks: u32,
}

pub struct LogEngine {
    volume: Arc<Volume>,
    handle: Handle,
    file: Below,
    completer: Completer,
    copy: CopyMode,
    durable: bool,
    calls: PerCall<Call>,
    /// What was written in this turn, and is not noted yet.
    written: Vec<(Writing, Kind)>,
    /// What became of this turn's notes.
    noted: std::result::Result<(), Errno>,
    found: Vec<(u64, u32, Found)>,
    ahead: Ahead,
}

/// Reads that follow each other.
#[derive(Default)]
struct Ahead {
    /// Where the last one ended.
    end: u64,
    /// How many there were.
    streak: u32,
    /// Up to where is asked for already.
    until: u64,
}

impl Ahead {
    /// A read has come. What is to be fetched in advance, if it is time.
    fn read(&mut self, offset: u64, length: u64, size: u64) -> Option<std::ops::Range<u64>> {
        let near = offset <= self.end + NEAR && offset + NEAR >= self.end;
        self.streak = if near && self.end > 0 { self.streak.saturating_add(1) } else { 0 };
        if self.streak == 0 {
            (self.end, self.until) = (offset + length, 0);
            return None;
        }
        self.end = self.end.max(offset + length);
        if self.streak < STREAK || self.until >= self.end + MOST_AHEAD / 2 {
            return None;
        }
        let wanted = self.until.max(self.end)..(self.end + MOST_AHEAD).min(size);
        self.until = wanted.end;
        (!wanted.is_empty()).then_some(wanted)
    }
}

impl LogEngine {
    pub fn new(volume: Arc<Volume>, handle: Handle, site: &mut Site) -> Result<Self> {
        if u64::from(site.max_io()) > SPAN {
            return Err(Error::invalid(format!("requests of {} bytes are above {SPAN}", site.max_io())));
        }
        let data: Arc<dyn Backend> = volume.data.clone();
        let file = site.below(data)?;
        site.operations(OPERATIONS);
        Ok(Self {
            volume,
            handle,
            file,
            completer: site.completer(),
            copy: site.copy_mode(),
            durable: site.durable(),
            calls: PerCall::new(site.depth()),
            written: Vec::new(),
            noted: Ok(()),
            found: Vec::new(),
            ahead: Ahead::default(),
        })
    }

    fn waiter(&self, io: &Io<'_>) -> Waiter {
        let (completer, token) = (self.completer.clone(), io.token(KEY));
        Box::new(move |result| completer.complete(token, result))
    }

    fn set(&mut self, io: &Io<'_>, phase: Phase) -> Phase {
        std::mem::replace(&mut self.calls.of(io).phase, phase)
    }

    /// What an earlier call with that number left, if it failed half-way.
    fn clean(&mut self, io: &Io<'_>) {
        self.unpin(io);
        match self.set(io, Phase::Idle) {
            Phase::Write(writing) => self.volume.abandon(&writing),
            Phase::Fill(writing, filling) => filling.orphan(&self.volume, &writing),
            _ => {}
        }
    }

    fn unpin(&mut self, io: &Io<'_>) {
        let pins = &mut self.calls.of(io).pins;
        if !pins.is_empty() {
            self.volume.unpin(pins.drain(..));
        }
    }

    fn begin(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        match piece.op {
            Op::Read => self.read(io, piece),
            Op::Write => self.write(io, piece),
            Op::Flush => self.flush(io),
            Op::WriteZeroes | Op::Discard => self.zero(io, piece),
            _ => Step::Done(Err(libc::EOPNOTSUPP)),
        }
    }

    fn read(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if let Some(wanted) = self.ahead.read(piece.offset, piece.length, self.volume.size()) {
            super::fetch::ahead(&self.volume, wanted, &self.handle);
        }
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let (block, blocks) = touched(&piece);
        let step = match self.volume.find(block, blocks, &mut found) {
            Ok(()) => self.read_found(io, piece, &found),
            Err(errno) => Step::Done(Err(errno)),
        };
        self.found = found;
        step
    }

    fn read_found(&mut self, io: &mut Io<'_>, piece: Piece, found: &[(u64, u32, Found)]) -> Step {
        let pins = found.iter().filter_map(|(.., found)| match found {
            Found::At(_, pin) => Some(*pin),
            Found::Zero | Found::Missing(_) => None,
        });
        self.calls.of(io).pins.extend(pins);
        if found.iter().any(|(.., found)| matches!(found, Found::Missing(_))) {
            self.unpin(io);
            return self.fetch(io, found);
        }
        let (mut waiting, mut error) = (0, None);
        for (number, (at, blocks, found)) in (0..).zip(found) {
            // A request may begin and end within a block.
            let skipped = piece.offset % BLOCK;
            let from = (at * BLOCK).max(skipped) - skipped;
            let end = ((at + u64::from(*blocks)) * BLOCK - skipped).min(piece.length);
            let part = piece.part(from, end - from);
            let within = (piece.offset + from) % BLOCK;
            let step = match found {
                Found::At(offset, _) => self.file.start(io, number, part.to(*offset + within)),
                Found::Zero if self.copy == CopyMode::Copy => {
                    Step::Done(io.zero(&part).map(|()| part.count()))
                }
                // Data that is never written: it reads as zeroes.
                Found::Zero => self.zeroes(io, number, &part),
                Found::Missing(_) => Step::Done(Err(libc::EIO)),
            };
            match step {
                Step::Pending => waiting += 1,
                Step::Done(outcome) => error = error.or(outcome.err()),
            }
        }
        if waiting > 0 {
            self.set(io, Phase::Read { waiting, error });
            return Step::Pending;
        }
        self.have_read(io, piece, error)
    }

    fn zeroes(&mut self, io: &mut Io<'_>, number: u32, part: &Piece) -> Step {
        debug_assert!(part.length <= Layout::ZEROES, "requests are shorter");
        self.file.start(io, number, part.to(0))
    }

    fn have_read(&mut self, io: &Io<'_>, piece: Piece, error: Option<Errno>) -> Step {
        self.unpin(io);
        self.set(io, Phase::Idle);
        Step::Done(error.map_or(Ok(piece.count()), Err))
    }

    fn fetch(&mut self, io: &mut Io<'_>, found: &[(u64, u32, Found)]) -> Step {
        let call = self.calls.of(io);
        call.looks += 1;
        if call.looks > PATIENCE {
            return Step::Done(Err(libc::EIO));
        }
        let mut wanted: Vec<_> = found
            .iter()
            .filter_map(|(.., found)| if let Found::Missing(key) = found { Some(*key) } else { None })
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let left = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        self.set(io, Phase::Fetch { left, error: 0 });
        let wanted = wanted.into_iter().map(|key| (key, self.waiter(io))).collect();
        super::fetch::fetch(&self.volume, wanted, &self.handle);
        Step::Pending
    }

    fn write(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let waiter = self.waiter(io);
        let (block, blocks) = touched(&piece);
        let is_within = |byte: u64| !byte.is_multiple_of(BLOCK);
        let (first, last) = (is_within(piece.offset), is_within(piece.offset + piece.length));
        let way = if first || last { Way::Part } else { Way::Whole };
        match self.volume.begin_write(block, blocks, way, || waiter) {
            Err(errno) => Step::Done(Err(errno)),
            Ok(None) => {
                self.set(io, Phase::Room);
                Step::Pending
            }
            Ok(Some(writing)) if way == Way::Part => {
                let waiter = self.waiter(io);
                let filling = Filling::start(&self.volume, writing, (first, last), waiter, &self.handle);
                self.set(io, Phase::Fill(writing, filling));
                Step::Pending
            }
            Ok(Some(writing)) => self.put(io, piece, writing),
        }
    }

    /// Puts the data of a write into its place.
    fn put(&mut self, io: &mut Io<'_>, piece: Piece, writing: Writing) -> Step {
        self.set(io, Phase::Write(writing));
        // The local file is not made durable for it: a flush of the volume follows.
        let place = writing.offset() + piece.offset % BLOCK;
        let step = self.file.pass(io, Piece { flags: Flags::default(), ..piece.to(place) });
        self.written(io, piece, step)
    }

    /// The local file has gone on with a write.
    fn written(&mut self, io: &mut Io<'_>, piece: Piece, step: Step) -> Step {
        let Step::Done(outcome) = step else { return step };
        let outcome = match outcome {
            Ok(count) if u64::from(count) != piece.length => Err(libc::EIO),
            // Others read it as soon as it is noted.
            Ok(count) => io.finish_moves().map(|()| count),
            error => error,
        };
        let Phase::Write(writing) = self.set(io, Phase::Idle) else { return Step::Done(Err(libc::EIO)) };
        if let Err(errno) = outcome {
            self.volume.abandon(&writing);
            return Step::Done(Err(errno));
        }
        self.volume.counts.written.fetch_add(piece.length, Relaxed);
        self.written.push((writing, Kind::Data));
        self.set(io, Phase::Note);
        io.go_on_later(KEY);
        Step::Pending
    }

    /// All else that the turn brought is done: what was written is noted by the first of its calls.
    fn note(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if !self.written.is_empty() {
            let noted = self.volume.commit(&self.written);
            self.noted = noted.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
            self.written.clear();
        }
        self.set(io, Phase::Idle);
        self.changed(io, piece, self.noted.map(|()| piece.count()))
    }

    /// What was asked for has been done, and may have to be made durable.
    fn changed(&mut self, io: &mut Io<'_>, piece: Piece, outcome: Outcome) -> Step {
        let durable = piece.op != Op::Discard && (self.durable || piece.flags.has(Flags::FUA));
        if outcome.is_ok() && durable { self.flush(io) } else { Step::Done(outcome) }
    }

    fn zero(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let (first, end) = (piece.offset.div_ceil(BLOCK), (piece.offset + piece.length) / BLOCK);
        let whole = piece.offset.is_multiple_of(BLOCK) && piece.length.is_multiple_of(BLOCK);
        if piece.op == Op::WriteZeroes && !whole {
            return Step::Done(Err(libc::EOPNOTSUPP)); // the kernel writes zeroes then
        }
        if first >= end {
            return Step::Done(Ok(piece.count()));
        }
        let waiter = self.waiter(io);
        let blocks = u32::try_from(end - first).unwrap_or(u32::MAX);
        match self.volume.zero(first, blocks, || waiter) {
            Err(errno) => Step::Done(Err(errno)),
            Ok(true) => self.changed(io, piece, Ok(piece.count())),
            Ok(false) => {
                self.set(io, Phase::Room);
                Step::Pending
            }
        }
    }

    fn flush(&mut self, io: &mut Io<'_>) -> Step {
        self.set(io, Phase::Flush);
        self.volume.flush(self.waiter(io), &self.handle);
        Step::Pending
    }
}

/// The blocks that a piece touches: the first, and how many.
fn touched(piece: &Piece) -> (u64, u32) {
    let first = piece.offset / BLOCK;
    let end = (piece.offset + piece.length).div_ceil(BLOCK);
    (first, u32::try_from(end - first).unwrap_or(u32::MAX))
}

impl Engine for LogEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        self.clean(io);
        let call = self.calls.of(io);
        (call.piece, call.looks) = (Some(piece), 0);
        if !piece.is_within(self.volume.size()) {
            return Step::Done(Err(libc::EIO));
        }
        self.begin(io, piece)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let result = completion.result;
        let call = self.calls.of(io);
        let Some(piece) = call.piece else { return Step::Done(Err(libc::EIO)) };
        match &mut call.phase {
            Phase::Read { .. } => {
                let Some(part) = self.file.resume(io, completion) else { return Step::Pending };
                let Phase::Read { waiting, error } = &mut self.calls.of(io).phase else {
                    return Step::Done(Err(libc::EIO));
                };
                if let Step::Done(outcome) = part.step {
                    *waiting -= 1;
                    *error = error.or(outcome.err());
                }
                let (waiting, error) = (*waiting, *error);
                if waiting > 0 { Step::Pending } else { self.have_read(io, piece, error) }
            }
            Phase::Write(_) => {
                let step = self.file.pass_on(io, completion);
                self.written(io, piece, step)
            }
            Phase::Fill(writing, _) => {
                let writing = *writing;
                if result < 0 {
                    self.volume.abandon(&writing);
                    self.set(io, Phase::Idle);
                    return Step::Done(Err(-result));
                }
                self.put(io, piece, writing)
            }
            Phase::Note => self.note(io, piece),
            Phase::Fetch { left, error } => {
                *left -= 1;
                *error = if result < 0 { result } else { *error };
                match (*left, *error) {
                    (0, 0) => self.begin(io, piece),
                    (0, error) => {
                        self.set(io, Phase::Idle);
                        Step::Done(Err(-error))
                    }
                    _ => Step::Pending,
                }
            }
            Phase::Room if result < 0 => {
                self.set(io, Phase::Idle);
                Step::Done(Err(-result))
            }
            Phase::Room => self.begin(io, piece),
            Phase::Flush => {
                self.set(io, Phase::Idle);
                Step::Done(if result < 0 { Err(-result) } else { Ok(piece.count()) })
            }
            Phase::Idle => Step::Done(Err(libc::EIO)),
        }
    }
}

impl Drop for LogEngine {
    fn drop(&mut self) {
        for call in self.calls.all() {
            self.volume.unpin(call.pins.iter().copied());
            match &call.phase {
                Phase::Write(writing) => self.volume.abandon(writing),
                Phase::Fill(writing, filling) => filling.orphan(&self.volume, writing),
                _ => {}
            }
        }
        // Their requests are not answered.
        self.written.iter().for_each(|(writing, ..)| self.volume.abandon(writing));
    }
}
