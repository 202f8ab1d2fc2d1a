//! Serves one queue of an image: the ring moves data between requests and the files of the chain, wherever the table says
//! the clusters are; the mapper is asked where it does not.

use super::Qcow2;
use super::mapper::Clear;
use super::scratch;
use super::session::{Answer, Job, Session, What};
use super::table::{Entry, Grace, Pin, Pins};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use ublk_core::backend::{
    Completer, Completion, Engine, Errno, Flags, Io, Key, Op, PerCall, Piece, Site, Slot, Step,
};

/// The most operations of a request at a time, each at a place of its own.
pub const PARTS: usize = 8;

/// The key of the mapper's answer, and of a sync.
const OTHER: Key = 1000;

/// Some of a request's data, at one place.
#[derive(Debug, Clone, Copy)]
struct Part {
    piece: Piece,
    /// Where: a file, and an offset there. `None`: it reads as zeroes.
    place: Option<(Slot, u64)>,
    done: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// Waits for the mapper, and looks again then.
    Mapping,
    /// Operations move data.
    Moving,
    /// Waits for what finishes it.
    #[default]
    Last,
}

#[derive(Default)]
struct Call {
    piece: Option<Piece>,
    phase: Phase,
    /// Bytes that were moved.
    done: u64,
    parts: Vec<Part>,
    /// Operations in the ring.
    running: usize,
    error: Errno,
    pin: Option<Pin>,
}

pub struct Qcow2Engine {
    disk: Arc<Qcow2>,
    session: Arc<Session>,
    size: u64,
    writable: bool,
    /// Of the files of the chain.
    slots: Vec<Slot>,
    scratch: Slot,
    zeroes: Slot,
    pins: Arc<Pins>,
    completer: Completer,
    durable: bool,
    calls: PerCall<Call>,
}

impl Qcow2Engine {
    pub fn new(disk: Arc<Qcow2>, session: Arc<Session>, zeroes: &File, site: &mut Site) -> Self {
        site.operations(4);
        let slots = disk.layers.iter().map(|layer| site.file(layer.file.as_fd())).collect();
        Self {
            size: disk.size,
            writable: disk.writable,
            slots,
            scratch: site.file(session.scratch.as_fd()),
            zeroes: site.file(zeroes.as_fd()),
            pins: session.shared.grace.join(),
            completer: site.completer(),
            durable: site.durable(),
            calls: PerCall::new(site.depth()),
            disk,
            session,
        }
    }

    fn ask(&mut self, io: &Io<'_>, phase: Phase, what: What) -> Step {
        self.calls.of(io).phase = phase;
        let answer = Answer::new(self.completer.clone(), io.token(OTHER));
        self.session.ask(Job { what, answer });
        Step::Pending
    }

    /// Moves as much of the data as has a known place, or asks for one.
    fn go(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let pin = self.session.shared.grace.pin(&self.pins);
        let write = piece.op == Op::Write;
        let (done, mut parts) = {
            let call = self.calls.of(io);
            (call.done, std::mem::take(&mut call.parts))
        };
        parts.clear();
        self.find(&piece.rest(done), write, &mut parts);
        let call = self.calls.of(io);
        if parts.is_empty() {
            call.parts = parts;
            Grace::unpin(&self.pins, pin);
            let range = piece.offset + done..piece.offset + piece.length;
            let what = if write { What::Allocate(range) } else { What::LookUp(range) };
            return self.ask(io, Phase::Mapping, what);
        }
        (call.phase, call.pin, call.error, call.running) = (Phase::Moving, Some(pin), 0, 0);
        call.parts = parts;
        let whole = done == 0 && call.parts.len() == 1 && call.parts[0].piece.length == piece.length;
        if whole && call.parts[0].place.is_none() && io.reuses_buffers() {
            let outcome = io.zero(&piece);
            self.unpin(io);
            return Step::Done(outcome.map(|()| piece.count()));
        }
        for number in 0..self.calls.of(io).parts.len() {
            self.issue(io, number);
        }
        self.after_operations(io, piece)
    }

    /// Where the first bytes of a piece are.
    #[inline]
    fn find(&self, piece: &Piece, write: bool, parts: &mut Vec<Part>) {
        let table = &self.session.shared.table;
        let unit = table.unit();
        let mut done = 0;
        while done < piece.length {
            let at = piece.offset + done;
            let entry = table.get(at);
            if !entry.is_known() || write && !entry.is_writable() {
                return;
            }
            let within = at & (unit - 1);
            let length = (unit - within).min(piece.length - done);
            let place = self.place(entry, within);
            let count = parts.len();
            match parts.last_mut() {
                Some(part) if follows(part, place) => {
                    let before = part.piece.length;
                    part.piece = piece.part(done - before, before + length);
                }
                _ if count == PARTS => return,
                _ => parts.push(Part { piece: piece.part(done, length), place, done: 0 }),
            }
            done += length;
        }
    }

    #[inline]
    fn place(&self, entry: Entry, within: u64) -> Option<(Slot, u64)> {
        if entry.is_zeroes() {
            return None;
        }
        let slot = match entry.file() {
            scratch::FILE => self.scratch,
            file => self.slots[file],
        };
        Some((slot, entry.offset() + within))
    }

    /// Starts the operation of a part.
    fn issue(&mut self, io: &mut Io<'_>, number: usize) {
        let durable = self.durable;
        let zeroes = self.zeroes;
        let call = self.calls.of(io);
        let Part { piece, place, done } = call.parts[number];
        let rest = piece.rest(done);
        #[expect(clippy::cast_possible_truncation, reason = "there are few")]
        let key = number as Key;
        let step = match place {
            None => io.read_file(zeroes, &rest.to(0), key),
            Some((slot, offset)) if piece.op == Op::Write => {
                let durable = durable || piece.flags.has(Flags::FUA);
                io.write_file(slot, &rest.to(offset + done), durable, key)
            }
            Some((slot, offset)) => io.read_file(slot, &rest.to(offset + done), key),
        };
        let call = self.calls.of(io);
        match step {
            Step::Pending => call.running += 1,
            Step::Done(outcome) => call.error = outcome.err().unwrap_or(libc::EIO),
        }
    }

    fn part_done(&mut self, io: &mut Io<'_>, number: usize, result: i32) {
        let call = self.calls.of(io);
        call.running -= 1;
        let Some(part) = call.parts.get_mut(number) else { return };
        if result < 0 {
            if !matches!(-result, libc::EINTR | libc::EAGAIN) {
                call.error = -result;
                return;
            }
        } else if result == 0 {
            if part.piece.op == Op::Write || part.place.is_none() {
                call.error = libc::EIO;
                return;
            }
            part.piece = part.piece.rest(part.done); // the file ends here
            (part.place, part.done) = (None, 0);
        } else {
            part.done += u64::from(result.cast_unsigned());
            if part.done >= part.piece.length {
                return;
            }
        }
        if call.error == 0 {
            self.issue(io, number);
        }
    }

    /// Continues when no operation is in the ring.
    fn after_operations(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let call = self.calls.of(io);
        if call.running > 0 {
            return Step::Pending;
        }
        let error = call.error;
        if let (Some(first), Some(last)) = (call.parts.first(), call.parts.last()) {
            debug_assert!(first.piece.op == piece.op);
            let end = last.piece.at + last.piece.data_length();
            call.done = (end - piece.at) as u64;
        }
        let done = call.done;
        self.unpin(io);
        if error != 0 {
            return Step::Done(Err(error));
        }
        if done < piece.length {
            return self.go(io, piece);
        }
        let durable = piece.op == Op::Write && (self.durable || piece.flags.has(Flags::FUA));
        if durable && self.session.shared.unsynced.load(SeqCst) {
            return self.ask(io, Phase::Last, What::Flush);
        }
        Step::Done(Ok(piece.count()))
    }

    fn unpin(&mut self, io: &Io<'_>) {
        if let Some(pin) = self.calls.of(io).pin.take() {
            Grace::unpin(&self.pins, pin);
        }
    }
}

/// Whether a place is right behind a part.
#[inline]
fn follows(part: &Part, place: Option<(Slot, u64)>) -> bool {
    match (part.place, place) {
        (None, None) => true,
        (Some((slot, offset)), Some((next, at))) => slot == next && offset + part.piece.length == at,
        _ => false,
    }
}

impl Engine for Qcow2Engine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        self.unpin(io); // what a panic left of an earlier call
        let call = self.calls.of(io);
        (call.piece, call.done, call.error, call.running) = (Some(piece), 0, 0, 0);
        match piece.op {
            Op::Read | Op::Write if !piece.is_within(self.size) => Step::Done(Err(libc::EIO)),
            Op::Write | Op::Discard | Op::WriteZeroes if !self.writable => Step::Done(Err(libc::EROFS)),
            Op::Read | Op::Write => self.go(io, piece),
            Op::Flush if !self.writable => Step::Done(Ok(0)),
            Op::Flush if self.session.shared.unsaved.load(SeqCst) => self.ask(io, Phase::Last, What::Flush),
            Op::Flush => {
                call.phase = Phase::Last;
                io.sync_file(self.slots[0], OTHER)
            }
            Op::Discard | Op::WriteZeroes if !piece.is_within(self.size) => Step::Done(Err(libc::EIO)),
            Op::Discard | Op::WriteZeroes => {
                let clear = Clear {
                    range: piece.offset..piece.offset + piece.length,
                    zeroes: piece.op == Op::WriteZeroes,
                    keep: piece.flags.has(Flags::NO_UNMAP),
                };
                self.ask(io, Phase::Last, What::Clear(clear))
            }
            _ => Step::Done(Err(libc::EOPNOTSUPP)),
        }
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let result = completion.result;
        let Call { piece: Some(piece), phase, .. } = self.calls.of(io) else {
            return Step::Done(Err(libc::EIO));
        };
        let piece = *piece;
        match *phase {
            Phase::Moving => {
                self.part_done(io, completion.key.into(), result);
                self.after_operations(io, piece)
            }
            _ if result < 0 => Step::Done(Err(-result)),
            Phase::Mapping => self.go(io, piece),
            Phase::Last => Step::Done(Ok(piece.count())),
        }
    }
}

impl Drop for Qcow2Engine {
    fn drop(&mut self) {
        // Pins of operations that the ring still has are kept: no place that they reach is used again.
        self.disk.leave();
    }
}
