//! Copies the noted blocks of a [`Diff`] to its output, with two threads: one reads the disk, and one writes.
//!
//! Some data is read ahead of the output. What changes wait for is read however far behind the output is; what would take up
//! too much memory is put aside, into a file without a name.

use super::BLOCK;
use super::diff::{Copied, Data, Diff};
use super::priority::Priority;
use crate::backend::Sink;
use crate::backend::reader::Reader;
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use crate::number::{const_u32, to_usize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How many ranges are read at once.
pub const AT_ONCE: u16 = 16;
/// The same of what no change waits for: one that comes waits until they are read.
const AT_ONCE_AHEAD: usize = 4;
/// The longest range, in blocks.
const PART: u64 = 16;
/// The same in bytes.
pub const PART_BYTES: u32 = const_u32(PART * BLOCK);
/// The most data that is copied ahead of the output, in bytes.
const AHEAD: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };
/// The most data in memory, in bytes.
const MOST: usize = if cfg!(test) { 256 << 10 } else { 64 << 20 };
/// As the niceness of a thread: the one that reads the disk, since requests wait for it, and the one that writes.
const AHEAD_OF_OTHERS: i32 = -10;
const BEHIND_OTHERS: i32 = 10;
/// How often a cancellation is noticed.
const LOOK: Duration = Duration::from_millis(50);

/// Copies everything. Blocks. If it fails, or is cancelled, no change waits any more either.
pub fn run(
    diff: &Diff,
    reader: Reader,
    sink: &mut (dyn Sink + Send),
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let aside = Aside { file: sink.aside().map(Arc::new), end: 0 };
    std::thread::scope(|scope| {
        let output = scope.spawn(|| {
            let _behind = Priority::change(BEHIND_OTHERS);
            write_out(diff, sink);
        });
        if let Err(error) = copy(diff, reader, aside, cancelled) {
            diff.fail(error);
        }
        diff.end();
        if output.join().is_err() {
            diff.fail(Error::new(ErrorKind::System, "the output's thread panicked"));
        }
    });
    diff.state().failure.take().map_or(Ok(()), Err)
}

/// Where data is put that would take up too much memory.
struct Aside {
    file: io::Result<Arc<File>>,
    end: u64,
}

fn copy(diff: &Diff, mut reader: Reader, mut aside: Aside, cancelled: &dyn Fn() -> bool) -> Result<()> {
    // Requests wait for this thread.
    let (_flusher, _precedence) = (IoFlusher::new(), Priority::change(AHEAD_OF_OTHERS));
    let mut pace = Pace { cursor: 0, looked: Instant::now(), resume: Instant::now() };
    let copied = loop {
        let (parts, wanted) = match next(diff, &mut reader, &mut pace, cancelled) {
            Ok((parts, _)) if parts.is_empty() => break Ok(()),
            Ok(found) => found,
            Err(error) => break Err(error),
        };
        let began = Instant::now();
        if let Err(error) = copy_parts(diff, &mut reader, &parts, &mut aside) {
            break Err(error);
        }
        if !wanted {
            let now = Instant::now();
            pace.resume = now + (now - began);
        }
    };
    drop(reader);
    diff.leave_disk();
    copied
}

fn copy_parts(diff: &Diff, reader: &mut Reader, parts: &[Range<u64>], aside: &mut Aside) -> Result<()> {
    let bytes = |part: &Range<u64>| part.start * BLOCK..(part.end * BLOCK).min(diff.size);
    let ranges: Vec<_> = parts.iter().map(bytes).collect();
    let mut data: Vec<Vec<u8>> =
        ranges.iter().map(|range| Vec::with_capacity(to_usize(range.end - range.start))).collect();
    reader.read(&ranges, &mut |index, more| data[index].extend_from_slice(more)).map_err(|errno| {
        let what = format!("cannot read the disk near byte {}", ranges[0].start);
        Error::system(what, &io::Error::from_raw_os_error(errno)).kind(ErrorKind::Backend)
    })?;
    // Not with the state locked: queues may wait for that.
    let (before, mut bytes, mut kept) = (diff.state().bytes, 0, Vec::new());
    for (range, data) in ranges.iter().zip(data) {
        let data = if before + bytes + data.len() <= MOST {
            bytes += data.len();
            Data::Here(data)
        } else {
            aside.put(&data)?
        };
        kept.push(Copied { offset: range.start, data });
    }
    let mut state = diff.state();
    state.bytes += bytes;
    state.copied.extend(kept);
    parts.iter().for_each(|part| diff.copied(&mut state, part.clone()));
    diff.happened.notify_all();
    Ok(())
}

impl Aside {
    fn put(&mut self, data: &[u8]) -> Result<Data> {
        let failed = |error: &io::Error| {
            Error::system("cannot put aside what the output of the diff is too slow for", error)
                .kind(ErrorKind::Backend)
                .hint("write it to a faster file system, or while less is written to the disk")
        };
        let file = self.file.as_ref().map_err(failed)?.clone();
        file.write_all_at(data, self.end).map_err(|error| failed(&error))?;
        let at = self.end;
        self.end += data.len() as u64;
        Ok(Data::Aside { file, at, length: data.len() })
    }
}

/// How what no change waits for is copied.
struct Pace {
    cursor: u64,
    /// Not before: it pauses as long as it reads, so that the requests of the disk have time.
    resume: Instant,
    /// When the reader last did what others asked of it.
    looked: Instant,
}

/// What to copy next, and whether changes wait for it; nothing if all is copied, or it is over.
fn next(
    diff: &Diff,
    reader: &mut Reader,
    pace: &mut Pace,
    cancelled: &dyn Fn() -> bool,
) -> Result<(Vec<Range<u64>>, bool)> {
    let mut state = diff.state();
    loop {
        if diff.is_over() {
            return Ok((Vec::new(), false)); // `failure` says why
        }
        if cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the diff was cancelled"));
        }
        let wanted = diff.wanted(&state, AT_ONCE.into(), PART);
        if !wanted.is_empty() {
            return Ok((wanted, true));
        }
        let now = Instant::now();
        if now >= pace.looked + LOOK {
            drop(state);
            reader.idle().map_err(|errno| {
                Error::system("cannot read the disk", &io::Error::from_raw_os_error(errno))
            })?;
            pace.looked = now;
            state = diff.state();
            continue;
        }
        let full = state.bytes >= AHEAD;
        if !full && now >= pace.resume {
            return Ok((diff.rest(&mut pace.cursor, AT_ONCE_AHEAD, PART), false));
        }
        let pause = if full { LOOK } else { LOOK.min(pace.resume - now) };
        state = diff.happened.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn write_out(diff: &Diff, sink: &mut (dyn Sink + Send)) {
    let failed = |error: &io::Error| diff.fail(cannot_write(error));
    loop {
        let mut state = diff.state();
        let Copied { offset, data } = loop {
            if state.failure.is_some() {
                return;
            }
            match state.copied.pop_front() {
                Some(copied) => break copied,
                None if state.complete => return,
                None => state = diff.happened.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        let (data, here) = match data {
            Data::Here(data) => {
                let length = data.len();
                (Ok(data), length)
            }
            Data::Aside { file, at, length } => {
                let mut data = vec![0; length];
                (file.read_exact_at(&mut data, at).map(|()| data), 0)
            }
        };
        match data.and_then(|data| sink.put(offset, &data)) {
            Ok(()) => {}
            Err(error) => return failed(&error),
        }
        diff.state().bytes -= here;
        diff.happened.notify_all();
    }
}

/// The error of an output.
pub fn cannot_write(error: &io::Error) -> Error {
    Error::system("cannot write the diff", error).kind(ErrorKind::Backend)
}
