//! Serves one queue of a disk in a file.

use super::File;
use super::zeroes::{Way, Ways, cannot};
use crate::backend::{Completion, Engine, Io, Key, PerCall, Piece, Slot, Step};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::number::to_usize;
use crate::queue::{Descriptor, Flags, Op};
use std::sync::{Arc, OnceLock};

/// A call waits for one operation at a time.
const KEY: Key = 0;

/// Bytes of zeroes per write, where fallocate(2) does not work.
const ZEROES: u64 = 256 << 10;

/// A call and its progress.
#[derive(Debug, Clone, Copy)]
struct Progress {
    piece: Piece,
    /// Bytes read or written so far: the kernel may do less than was asked.
    done: u64,
    /// The method that a discard or write-zeroes uses, and its index in the list of methods.
    way: Option<(usize, Way)>,
    /// The last operation makes the call durable.
    syncing: bool,
}

impl Progress {
    const fn of(piece: Piece) -> Self {
        Self { piece, done: 0, way: None, syncing: false }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::of(Descriptor::new(Op::Flush, 0, 0).piece())
    }
}

pub struct FileEngine {
    _file: Arc<File>,
    slot: Slot,
    durable: bool,
    ways: Ways,
    progress: PerCall<Progress>,
}

impl FileEngine {
    pub fn new(file: Arc<File>, slot: Slot, depth: u16, durable: bool) -> Self {
        Self { _file: file, slot, durable, ways: Ways::default(), progress: PerCall::new(depth) }
    }

    /// Whether it has to be durable before it is answered.
    fn durable(&self, piece: &Piece) -> bool {
        self.durable || piece.flags.has(Flags::FUA)
    }

    /// Starts the next operation of the call.
    fn issue(&mut self, io: &mut Io<'_>) -> Step {
        let Progress { piece, done, way, syncing } = *self.progress.of(io);
        let (file, rest) = (self.slot, piece.rest(done));
        match (piece.op, way) {
            _ if syncing => io.sync_file(file, KEY),
            (Op::Read, _) => io.read_file(file, &rest, KEY),
            (Op::Write, _) => io.write_file(file, &rest, self.durable(&piece), KEY),
            (Op::Flush, _) => io.sync_file(file, KEY),
            (Op::Discard | Op::WriteZeroes, None) => self.try_from(io, 0, libc::EOPNOTSUPP),
            (Op::Discard | Op::WriteZeroes, Some((_, Way::Allocate(mode)))) => {
                io.allocate_file(file, &piece, mode, KEY)
            }
            (Op::Discard | Op::WriteZeroes, Some((_, Way::Write))) => match zeroes() {
                // SAFETY: these bytes stay mapped for ever, and nothing writes to them.
                Ok(zeroes) => unsafe {
                    io.write_memory(file, zeroes, rest.length.min(ZEROES) as u32, rest.offset, KEY)
                },
                Err(error) => {
                    io.report(error.to_string());
                    Step::Done(Err(error.errno.unwrap_or(libc::EIO)))
                }
            },
            (Op::Other(_), _) => Step::Done(Err(libc::EOPNOTSUPP)),
        }
    }

    /// Starts the best method for a discard or write-zeroes from index `from` on. If none is left, the call fails with
    /// `errno`.
    fn try_from(&mut self, io: &mut Io<'_>, from: usize, errno: i32) -> Step {
        let piece = self.progress.of(io).piece;
        let Some(way) = self.ways.next(&piece, from) else {
            return Step::Done(Err(if cannot(errno) { libc::EOPNOTSUPP } else { errno }));
        };
        *self.progress.of(io) = Progress { way: Some(way), ..Progress::of(piece) };
        self.issue(io)
    }
}

/// [`ZEROES`] bytes of zeroes. They are never unmapped: the kernel may still read them after an engine was dropped.
fn zeroes() -> Result<*const u8> {
    static MEMORY: OnceLock<Mapping> = OnceLock::new();
    if let Some(memory) = MEMORY.get() {
        return Ok(memory.at(0));
    }
    let memory = Mapping::anonymous(to_usize(ZEROES))
        .map_err(|error| Error::system("cannot map zeroes to write", &error))?;
    Ok(MEMORY.get_or_init(|| memory).at(0))
}

impl Engine for FileEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        *self.progress.of(io) = Progress::of(piece);
        self.issue(io)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let result = completion.result;
        let Progress { piece, done, way, syncing } = *self.progress.of(io);
        match (result, way) {
            (libc::c_int::MIN..0, _) if matches!(-result, libc::EINTR | libc::EAGAIN) => {
                return self.issue(io);
            }
            (libc::c_int::MIN..0, Some((number, way))) if !syncing => {
                self.ways.failed(way, -result);
                return self.try_from(io, number + 1, -result);
            }
            (libc::c_int::MIN..0, _) => return Step::Done(Err(-result)),
            _ => {}
        }
        let moves = piece.op.has_data() || matches!(way, Some((_, Way::Write)));
        if moves && !syncing {
            let done = done + u64::from(result.cast_unsigned());
            if result > 0 && done < piece.length {
                self.progress.of(io).done = done;
                return self.issue(io);
            }
            if done != piece.length {
                return Step::Done(Err(libc::EIO)); // nothing was read: the file was truncated
            }
            if way.is_none() {
                return Step::Done(Ok(piece.count()));
            }
        }
        if piece.op == Op::WriteZeroes && self.durable(&piece) && !syncing {
            self.progress.of(io).syncing = true;
            return self.issue(io);
        }
        Step::Done(Ok(0))
    }
}
