//! Copies the noted blocks of a [`Diff`] to its output, with three threads: one reads the disk, one writes, and one puts aside,
//! into a file without a name, what would take up too much memory.
//!
//! Some data is read ahead of the output. What changes wait for is read however far behind the output is. If it cannot be put
//! aside in time, the diff fails: changes wait for the disk only.

use super::BLOCK;
use super::buffers::Buffers;
use super::diff::{Diff, no_panic};
use super::outgoing::{Aside, Copied, Part};
use crate::backend::Sink;
use crate::backend::reader::Reader;
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use crate::number::{const_u32, to_usize};
use crate::priority::Priority;
use crate::queue::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;
use std::sync::mpsc::Sender;
use std::thread::{Builder, Scope};
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
/// What is in memory beyond this is put aside, in bytes.
const ENOUGH: usize = if cfg!(test) { 128 << 10 } else { 32 << 20 };
/// While more than this is in memory, in bytes, nothing is read.
const MOST: usize = if cfg!(test) { 256 << 10 } else { 64 << 20 };
/// How long changes wait for memory, all such times of a diff together.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };
/// How long the disk is left alone after what no change waits for was read, as a multiple of the time that this took: usually,
/// and if changes have waited since the last time.
const REST: u32 = 1;
const LONG_REST: u32 = 4;
/// How soon it is tried again to add what is held.
const MOMENT: Duration = Duration::from_millis(1);
/// How often a cancellation is noticed.
const LOOK: Duration = Duration::from_millis(50);

/// Has `take` find the diff's instant, and copies everything. Blocks. If it fails, or is cancelled, no change waits any more
/// either.
pub fn run(
    diff: &Diff,
    reader: Reader,
    aside: &io::Result<File>,
    sink: &mut (dyn Sink + Send),
    cancelled: &dyn Fn() -> bool,
    take: impl FnOnce(&mut Reader) -> Result<()>,
) -> Result<()> {
    let interrupt = sink.interrupter();
    std::thread::scope(|scope| {
        let (buffers, back) = Buffers::new();
        let also_back = back.clone();
        let output = start(diff, scope, "ublk-diff-out", move || {
            let _behind = Priority::behind(); // nobody waits for it
            let written = write_out(diff, aside, sink, &back);
            diff.outgoing.written();
            written
        });
        start(diff, scope, "ublk-diff-aside", move || put_aside(diff, aside, &also_back));
        let take_and_copy = || {
            let _apart = diff.apart_when_dropped();
            let mut reader = reader; // dropped before that
            // From the instant on, requests wait for this thread. Hence the others were started before.
            let _flusher = IoFlusher::new();
            take(&mut reader)?;
            copy(diff, reader, buffers, cancelled)
        };
        if let Err(error) = no_panic(take_and_copy) {
            diff.fail(error);
        }
        diff.end();
        let mut interrupted = false;
        while output && !diff.outgoing.wait_until_written(LOOK) {
            if diff.has_failed() {
                if !interrupted {
                    interrupt();
                }
                interrupted = true;
            } else if cancelled() {
                diff.fail(was_cancelled());
            }
        }
    });
    diff.failure().map_or(Ok(()), Err)
}

/// Starts a thread of the diff, which fails with it. Whether it could be started.
fn start<'scope>(
    diff: &'scope Diff,
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    what: impl FnOnce() -> Result<()> + Send + 'scope,
) -> bool {
    let what = move || {
        if let Err(error) = no_panic(what) {
            diff.fail(error);
            diff.outgoing.written(); // if it has panicked
        }
    };
    let started = Builder::new().name(name.into()).spawn_scoped(scope, what);
    started.map_err(|error| diff.fail(Error::system("cannot start a thread for the diff", &error))).is_ok()
}

fn was_cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the diff was cancelled")
}

fn cannot_put_aside(error: &io::Error) -> Error {
    Error::system("cannot put aside what the output of the diff is too slow for", error)
        .kind(ErrorKind::Backend)
        .hint("write it to a faster file system, or while less is written to the disk")
}

/// The error of a reader.
pub fn cannot_read(errno: Errno) -> Error {
    Error::system("cannot read the disk", &io::Error::from_raw_os_error(errno)).kind(ErrorKind::Backend)
}

fn copy(diff: &Diff, mut reader: Reader, buffers: Buffers, cancelled: &dyn Fn() -> bool) -> Result<()> {
    let now = Instant::now();
    let mut pace = Pace { cursor: 0, looked: now, resume: now, rest: REST, patience: PATIENCE };
    let mut held = Held { buffers, copied: Vec::new() };
    loop {
        let (parts, wanted) = next(diff, &mut reader, &mut pace, &mut held, cancelled)?;
        if parts.is_empty() {
            diff.outgoing.add(held.copied);
            return Ok(());
        }
        let began = Instant::now();
        copy_parts(diff, &mut reader, &parts, &mut held, cancelled)?;
        if wanted {
            pace.rest = LONG_REST;
        } else {
            let now = Instant::now();
            pace.resume = now + (now - began) * pace.rest;
            pace.rest = REST;
        }
    }
}

fn copy_parts(
    diff: &Diff,
    reader: &mut Reader,
    parts: &[Range<u64>],
    held: &mut Held,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let bytes = |part: &Range<u64>| part.start * BLOCK..(part.end * BLOCK).min(diff.size);
    let ranges: Vec<_> = parts.iter().map(bytes).collect();
    let mut room = |range: &Range<u64>| held.buffers.get(to_usize(range.end - range.start));
    let mut copied: Vec<_> =
        ranges.iter().map(|range| Copied { offset: range.start, data: room(range) }).collect();
    // The storage may take its time.
    let given_up = || diff.is_over() || cancelled();
    let read =
        reader.read_unless(&given_up, &ranges, &mut |index, more| copied[index].data.extend_from_slice(more));
    match read {
        Ok(()) => {}
        Err(_) if diff.is_over() => return Ok(()), // `failure` says why
        Err(libc::ECANCELED) => return Err(was_cancelled()),
        Err(errno) => {
            let what = format!("cannot read the disk near byte {}", ranges[0].start);
            let error = io::Error::from_raw_os_error(errno);
            return Err(Error::system(what, &error).kind(ErrorKind::Backend));
        }
    }
    diff.outgoing.more(copied.iter().map(|copied| copied.data.len()).sum());
    held.copied.append(&mut copied);
    diff.copied(parts);
    diff.outgoing.try_add(&mut held.copied);
    Ok(())
}

/// What the reader has.
struct Held {
    buffers: Buffers,
    /// What could not be added to the outgoing data yet.
    copied: Vec<Copied>,
}

/// How it is copied.
struct Pace {
    cursor: u64,
    /// What no change waits for is not read before, so that requests have time.
    resume: Instant,
    /// See [`REST`].
    rest: u32,
    /// When the reader last did what others asked of it.
    looked: Instant,
    /// How long changes may still wait for memory.
    patience: Duration,
}

/// What to copy next, and whether changes wait for it; nothing if all is copied, or it is over.
fn next(
    diff: &Diff,
    reader: &mut Reader,
    pace: &mut Pace,
    held: &mut Held,
    cancelled: &dyn Fn() -> bool,
) -> Result<(Vec<Range<u64>>, bool)> {
    loop {
        if !held.copied.is_empty() {
            diff.outgoing.try_add(&mut held.copied);
        }
        if diff.is_over() {
            return Ok((Vec::new(), false)); // `failure` says why
        }
        if cancelled() {
            return Err(was_cancelled());
        }
        let (mut now, bytes) = (Instant::now(), diff.outgoing.bytes());
        if now >= pace.looked + LOOK {
            reader.idle().map_err(cannot_read)?;
            (pace.looked, now) = (now, Instant::now());
        }
        let state = diff.state();
        let wanted = diff.wanted(&state, AT_ONCE.into(), PART);
        let waits = !wanted.is_empty();
        let pause = if waits && bytes < MOST {
            return Ok((wanted, true));
        } else if waits {
            if pace.patience.is_zero() {
                return Err(cannot_put_aside(&io::Error::from_raw_os_error(libc::ETIMEDOUT)));
            }
            LOOK.min(pace.patience)
        } else if bytes >= AHEAD {
            LOOK
        } else if now < pace.resume {
            LOOK.min(pace.resume - now)
        } else {
            drop(state); // nobody waits while it is looked for
            return Ok((diff.rest(&mut pace.cursor, AT_ONCE_AHEAD, PART), false));
        };
        let pause = if held.copied.is_empty() { pause } else { pause.min(MOMENT) };
        drop(diff.happened.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner));
        if waits {
            pace.patience = pace.patience.saturating_sub(now.elapsed());
        }
    }
}

/// Puts aside what is too much, until nothing waits for memory any more.
fn put_aside(diff: &Diff, file: &io::Result<File>, back: &Sender<Vec<u8>>) -> Result<()> {
    let _flusher = IoFlusher::new();
    let mut at = 0;
    while let Some(Copied { offset, data }) = diff.outgoing.surplus(ENOUGH) {
        let file = file.as_ref().map_err(cannot_put_aside)?;
        file.write_all_at(&data, at).map_err(|error| cannot_put_aside(&error))?;
        let length = data.len();
        diff.outgoing.is_aside(Aside { offset, at, length });
        diff.happened.notify_all();
        at += length as u64;
        let _ = back.send(data); // nobody copies any more
    }
    Ok(())
}

fn write_out(
    diff: &Diff,
    aside: &io::Result<File>,
    sink: &mut (dyn Sink + Send),
    back: &Sender<Vec<u8>>,
) -> Result<()> {
    while let Some(part) = diff.outgoing.next() {
        let put = match part {
            Part::Here(Copied { offset, data }) => {
                let put = sink.put(offset, &data);
                diff.outgoing.less(data.len());
                let _ = back.send(data); // nobody copies any more
                put
            }
            Part::Aside(Aside { offset, at, length }) => {
                let mut data = vec![0; length];
                let file = aside.as_ref().map_err(cannot_put_aside)?;
                file.read_exact_at(&mut data, at).and_then(|()| sink.put(offset, &data))
            }
        };
        put.map_err(|error| cannot_write(&error))?;
        diff.happened.notify_all();
    }
    Ok(())
}

/// The error of an output.
pub fn cannot_write(error: &io::Error) -> Error {
    Error::system("cannot write the diff", error).kind(ErrorKind::Backend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Completer, Memory, Token};
    use crate::queue::{Ticket, Waker};
    use crate::report::Reporter;
    use std::sync::Arc;

    #[test]
    fn changes_do_not_wait_for_long_for_what_cannot_be_put_aside() {
        let disk = Arc::new(Memory::new(4 << 20).unwrap());
        let diff = Diff::new(4 << 20, BLOCK).unwrap();
        diff.note_table(None);
        diff.release_others();
        // Neither the output nor the file for it answers.
        diff.outgoing.more(MOST);
        diff.outgoing.add(vec![Copied { offset: 0, data: vec![0; MOST] }]);
        let completer = Completer::new(Waker::new().unwrap());
        let wait = || (completer.clone(), Token::of(Ticket { tag: 0, generation: 1, queue: 0 }));
        assert!(!diff.admits(&(2..3), wait));
        let reader = Reader::new(disk, AT_ONCE, PART_BYTES, Reporter::new(|_| {})).unwrap();
        let began = Instant::now();
        let failed = copy(&diff, reader, Buffers::new().0, &|| began.elapsed() > PATIENCE * 10).unwrap_err();
        assert_eq!(failed.errno, Some(libc::ETIMEDOUT));
        assert!(began.elapsed() >= PATIENCE);
        diff.fail(failed);
        let mut told = Vec::new();
        completer.take(&mut told);
        assert_eq!(told.len(), 1);
        assert!(diff.admits(&(2..3), wait));
    }
}
