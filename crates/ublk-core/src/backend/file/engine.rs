//! Serves one queue of a disk in a file.

use super::zeroes::{Way, Ways, cannot};
use crate::backend::{Engine, Site, Step};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::queue::{Io, Op, Slot};
use std::sync::OnceLock;

/// The backend's only file.
const FILE: Slot = Slot(1);

/// Bytes of zeroes per write, where fallocate(2) does not work.
const ZEROES: u64 = 256 << 10;

/// The progress of a request.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Bytes read or written so far: the kernel may do less than was asked.
    done: usize,
    /// The method that a discard or write-zeroes uses, and its index in the request's list of methods.
    way: Option<(usize, Way)>,
    /// The last operation makes the request durable.
    syncing: bool,
}

pub struct FileEngine {
    durable: bool,
    ways: Ways,
    progress: Box<[Progress]>,
}

impl FileEngine {
    pub fn new(site: &Site) -> Self {
        let progress = vec![Progress::default(); usize::from(site.depth)].into();
        Self { durable: site.durable, ways: Ways::default(), progress }
    }

    fn progress(&mut self, io: &Io<'_>) -> &mut Progress {
        &mut self.progress[usize::from(io.request.ticket.tag)]
    }

    /// Starts the next operation of the request.
    fn issue(&mut self, io: &mut Io<'_>) -> Result<Step> {
        let (what, Progress { done, way, syncing }) = (io.request.what, *self.progress(io));
        let offset = what.offset + done as u64;
        match (what.op, way) {
            _ if syncing => io.sync_file(FILE)?,
            (Op::Read, _) => io.read_file(FILE, done, offset)?,
            (Op::Write, _) => io.write_file(FILE, done, offset, what.fua || self.durable)?,
            (Op::Flush, _) => io.sync_file(FILE)?,
            (Op::Discard | Op::WriteZeroes, None) => return self.try_from(io, 0, libc::EOPNOTSUPP),
            (Op::Discard | Op::WriteZeroes, Some((_, Way::Allocate(mode)))) => {
                io.allocate_file(FILE, mode)?
            }
            (Op::Discard | Op::WriteZeroes, Some((_, Way::Write))) => {
                let length = (what.length - done as u64).min(ZEROES) as u32;
                // SAFETY: these bytes stay mapped for ever, and nothing writes to them.
                unsafe { io.write_memory(FILE, zeroes()?, length, offset)? };
            }
            (Op::Other(_), _) => return Ok(Step::Done(Err(libc::EOPNOTSUPP))),
        }
        Ok(Step::Pending)
    }

    /// Starts the best method for a discard or write-zeroes from index `from` on. If none is left, the request fails
    /// with `errno`.
    fn try_from(&mut self, io: &mut Io<'_>, from: usize, errno: i32) -> Result<Step> {
        let Some(way) = self.ways.next(&io.request.what, from) else {
            return Ok(Step::Done(Err(if cannot(errno) { libc::EOPNOTSUPP } else { errno })));
        };
        *self.progress(io) = Progress { way: Some(way), ..Progress::default() };
        self.issue(io)
    }
}

/// [`ZEROES`] bytes of zeroes. They are never unmapped: the kernel may still read them after an engine was dropped.
fn zeroes() -> Result<*const u8> {
    static MEMORY: OnceLock<Mapping> = OnceLock::new();
    if let Some(memory) = MEMORY.get() {
        return Ok(memory.at(0));
    }
    let memory = Mapping::anonymous(ZEROES as usize)
        .map_err(|error| Error::system("cannot map zeroes to write", &error))?;
    Ok(MEMORY.get_or_init(|| memory).at(0))
}

impl Engine for FileEngine {
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step> {
        *self.progress(io) = Progress::default();
        self.issue(io)
    }

    fn resume(&mut self, io: &mut Io<'_>, result: i32) -> Result<Step> {
        let (what, Progress { done, way, syncing }) = (io.request.what, *self.progress(io));
        match (result, way) {
            (libc::c_int::MIN..0, _) if matches!(-result, libc::EINTR | libc::EAGAIN) => {
                return self.issue(io);
            }
            (libc::c_int::MIN..0, Some((number, way))) if !syncing => {
                self.ways.failed(way, -result);
                return self.try_from(io, number + 1, -result);
            }
            (libc::c_int::MIN..0, _) => return Ok(Step::Done(Err(-result))),
            _ => {}
        }
        let moves = matches!(what.op, Op::Read | Op::Write) || matches!(way, Some((_, Way::Write)));
        if moves && !syncing {
            let done = done + result as usize;
            if result > 0 && (done as u64) < what.length {
                self.progress(io).done = done;
                return self.issue(io);
            }
            if done as u64 != what.length {
                return Ok(Step::Done(Err(libc::EIO))); // nothing was read: the file was truncated
            }
            if way.is_none() {
                return Ok(Step::Done(Ok(done as u32)));
            }
        }
        if what.op == Op::WriteZeroes && (what.fua || self.durable) && !syncing {
            self.progress(io).syncing = true;
            return self.issue(io);
        }
        Ok(Step::Done(Ok(0)))
    }
}
