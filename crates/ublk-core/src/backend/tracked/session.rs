//! The change map while its disk is served: checkpoints, each with a table of what was changed from it to the next one.
//!
//! The newest table is the one that requests mark. To make a checkpoint, another one takes its place, and the generation is
//! counted up. What was changed since a checkpoint is what its table and all newer ones have together.

mod take_diff;

use super::BLOCK;
use super::diff::Diff;
use super::file::{ChangeMap, Found, Left, MOST, MOST_NAME, PAGE};
use super::seats::Seats;
use crate::backend::bits::Bits;
use crate::backend::{Changed, Checkpoint};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use crate::report::Reporter;
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// A checkpoint, and what was changed from it to the next one.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub made: u64,
    /// See [`Checkpoint::known`].
    pub known: bool,
    pub bits: Arc<Bits>,
}

impl Entry {
    /// A table for a disk of that size: whole pages of bits.
    pub fn table(size: u64) -> io::Result<Bits> {
        Bits::new(to_usize(size.div_ceil(BLOCK).div_ceil(PAGE * 8).max(1) * PAGE))
    }
}

/// The blocks that a range touches.
#[inline]
pub fn blocks(range: Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

/// What requests mark, and wait for.
#[derive(Clone)]
pub struct Newest {
    bits: Arc<Bits>,
    /// The diff that is under way, and whether its instant has passed.
    diff: Option<(Arc<Diff>, bool)>,
    /// How often a diff began to watch, or had its instant.
    pub epoch: u64,
    pub generation: u64,
}

impl Newest {
    #[inline]
    pub fn mark(&self, offset: u64, length: u64) {
        let mut blocks = blocks(offset..offset + length);
        // The disk may have been made smaller while the request was in flight.
        blocks.end = blocks.end.min(self.bits.words() as u64 * 64);
        if let Some((diff, false)) = &self.diff {
            diff.note(&blocks);
        }
        self.bits.set_all(blocks);
    }

    /// The diff whose instant has passed.
    #[inline]
    pub fn taken(&self) -> Option<&Arc<Diff>> {
        self.diff.as_ref().filter(|(_, taken)| *taken).map(|(diff, _)| diff)
    }
}

struct Kept {
    map: ChangeMap,
    entries: Vec<Entry>,
    size: u64,
    over: bool,
}

/// A session has one diff at a time.
#[derive(Default)]
enum Running {
    #[default]
    None,
    /// The disk is resized: there is none.
    Resizing,
    /// It does not read the disk yet.
    Begun,
    Diff(Arc<Diff>),
    /// The session is over.
    Never,
}

/// See the [module](self).
pub struct Session {
    /// Of what is newest. Counted up after that has changed.
    generation: AtomicU64,
    /// Locked for moments only, since queues wait for it.
    newest: Mutex<Newest>,
    pub seats: Seats,
    running: Mutex<Running>,
    /// Locked while checkpoints are made or removed, or the disk is resized, which may take longer than `kept` is locked:
    /// a diff locks that while requests wait for it.
    changing: Mutex<()>,
    kept: Mutex<Kept>,
    read_only: bool,
    reporter: Reporter,
}

/// The error of a session that has ended.
pub fn over() -> Error {
    Error::new(ErrorKind::Closed, "the disk is not served, so its changes are not recorded")
        .hint("start it first")
}

impl Session {
    pub fn begin(mut map: ChangeMap, found: &Found, reporter: Reporter) -> Result<Self> {
        let entries = map.begin(found)?;
        let newest = match entries.last() {
            Some(entry) => entry.bits.clone(),
            None => Arc::new(Entry::table(found.size).map_err(|error| no_memory(&error))?),
        };
        Ok(Self {
            generation: AtomicU64::new(1),
            newest: Mutex::new(Newest { bits: newest, diff: None, epoch: 0, generation: 1 }),
            seats: Seats::default(),
            running: Mutex::default(),
            changing: Mutex::default(),
            kept: Mutex::new(Kept { map, entries, size: found.size, over: false }),
            read_only: found.read_only,
            reporter,
        })
    }

    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// What to mark, and wait for.
    pub fn newest(&self) -> Newest {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From here on requests mark in another table. Those in flight find that out before they are answered.
    fn switch(&self, bits: Arc<Bits>) {
        self.change(|newest| newest.bits = bits);
    }

    /// Requests that begin from here on find this, and those in flight before they are answered.
    fn change(&self, how: impl FnOnce(&mut Newest)) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut newest);
        newest.generation += 1;
        self.generation.store(newest.generation, SeqCst);
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> Result<MutexGuard<'_, Kept>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.over { Err(over()) } else { Ok(kept) }
    }

    fn writable(&self) -> Result<MutexGuard<'_, Kept>> {
        if self.read_only {
            return Err(Error::invalid("the disk is read-only, so its checkpoints cannot be changed"));
        }
        self.kept()
    }

    pub fn checkpoint(&self, name: &str) -> Result<()> {
        self.checkpoint_at(name, |now| {
            now();
            Ok(())
        })
    }

    /// Makes a checkpoint at the instant at which `make` calls what it is given. None is made if it fails before.
    ///
    /// The list has it before, durably. A server that is killed meanwhile leaves a checkpoint that is unknown.
    pub fn checkpoint_at(&self, name: &str, make: impl FnOnce(&dyn Fn()) -> Result<()>) -> Result<()> {
        check_name(name)?;
        let _changing = self.changing();
        let entry = {
            let mut kept = self.writable()?;
            let entry = kept.next(name)?;
            let entries: Vec<_> = kept.entries.iter().chain([&entry]).cloned().collect();
            kept.record(&entries)?;
            entry
        };
        let done = Cell::new(false);
        let made = make(&|| {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if !kept.over {
                kept.entries.push(entry.clone());
                self.switch(entry.bits.clone());
                done.set(true);
            }
        });
        if done.get() {
            return made;
        }
        let mut kept = self.kept()?;
        let entries = kept.entries.clone();
        let taken_out = kept.record(&entries);
        made.and(taken_out)
    }

    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |at: usize| kept.entries[at..].iter().all(|entry| entry.known);
        let checkpoint = |(at, entry): (usize, &Entry)| Checkpoint {
            name: entry.name.clone(),
            made: entry.made,
            known: known(at),
        };
        kept.entries.iter().enumerate().map(checkpoint).collect()
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        let _changing = self.changing();
        let mut kept = self.writable()?;
        let at = kept.position(name)?;
        let mut entries = kept.entries.clone();
        let removed = entries.remove(at);
        let Some(older) = at.checked_sub(1) else {
            return kept.write(entries); // nobody asks for what its table has
        };
        // What was changed since an older checkpoint includes what was changed since this one. The table of the older one
        // may be too small: the disk may have grown.
        let before = entries[older].bits.clone();
        let bits = Arc::new(Entry::table(kept.size).map_err(|error| no_memory(&error))?);
        entries[older].known &= removed.known;
        entries[older].bits = bits.clone();
        kept.write(entries)?;
        if at == kept.entries.len() {
            self.switch(bits.clone());
        }
        // After the switch: whatever was marked before is there, and what is in flight is marked again.
        bits.add(&before);
        bits.add(&removed.bits);
        Ok(())
    }

    pub fn changed(&self, since: &str, from: u64, most: usize) -> Result<Changed> {
        let kept = self.kept()?;
        let entries = &kept.entries[kept.position(since)?..];
        let size = kept.size;
        let known = entries.iter().all(|entry| entry.known);
        if !known {
            let ranges = Some(from..size).filter(|range| !range.is_empty()).into_iter().collect();
            return Ok(Changed { size, known, ranges, next: None });
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let end = size.div_ceil(BLOCK);
        let mut block = from / BLOCK;
        while block < end {
            let word = to_usize(block / 64);
            let bits = entries.iter().filter(|entry| word < entry.bits.words());
            let bits = bits.fold(0, |bits, entry| bits | entry.bits.word(word).load(SeqCst))
                & u64::MAX << (block % 64);
            if bits == 0 {
                block = (block / 64 + 1) * 64;
                continue;
            }
            let first = block / 64 * 64 + u64::from(bits.trailing_zeros());
            let ones = u64::from((!(bits >> (first % 64))).trailing_zeros()).min(64 - first % 64);
            block = first + ones;
            let range = first * BLOCK..(block * BLOCK).min(size);
            if range.is_empty() {
                break; // behind a disk that has shrunk
            }
            let count = ranges.len();
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ if count == most => {
                    return Ok(Changed { size, known, ranges, next: Some(range.start) });
                }
                _ => ranges.push(range),
            }
        }
        Ok(Changed { size, known, ranges, next: None })
    }

    /// The disk is reset: everything counts as changed since each checkpoint, and none is made meanwhile.
    pub fn reset(&self, reset: impl FnOnce() -> Result<()>) -> Result<()> {
        let kept = self.kept()?;
        if matches!(&*self.running(), Running::Begun | Running::Diff(_)) {
            return Err(Error::new(ErrorKind::Busy, "the disk cannot be reset while its diff is written")
                .hint("wait until that has ended"));
        }
        self.newest().mark(0, kept.size);
        reset()
    }

    /// The disk gets another size, unless `resize` fails. What is added counts as changed. No diff begins meanwhile.
    pub fn resize(&self, from: u64, to: u64, resize: impl FnOnce() -> Result<()>) -> Result<()> {
        let _resizing = Resizing::begin(self)?;
        self.prepare(from, to)?;
        let resized = resize();
        if resized.is_err()
            && let Err(error) = self.prepare(to, from)
        {
            self.reporter.report(error.to_string()); // what matters is why the disk was not resized
        }
        resized
    }

    fn prepare(&self, from: u64, to: u64) -> Result<()> {
        let _changing = self.changing();
        let mut kept = self.kept()?;
        let path = kept.map.path().display().to_string();
        kept.map.resize(to).map_err(|error| {
            Error::system(format!("cannot write the change map {path}"), &error).kind(ErrorKind::Backend)
        })?;
        if to > from {
            let bits = Arc::new(Entry::table(to).map_err(|error| no_memory(&error))?);
            let before = self.newest().bits;
            if let Some(newest) = kept.entries.last_mut() {
                newest.bits = bits.clone();
            }
            self.switch(bits.clone());
            bits.add(&before);
            bits.set_all(blocks(from..to));
        }
        kept.size = to;
        Ok(())
    }

    /// No engine is left. What is in the file now, unless that failed.
    pub fn end(&self, content: impl FnOnce() -> Result<u64>) -> Option<Left> {
        self.end_diff();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.over = true;
        if self.read_only {
            return None;
        }
        let Kept { map, entries, .. } = &mut *kept;
        let left = content().and_then(|content| {
            let failed = |error| Error::system("the change map could not be written", &error);
            map.complete(entries, content).map_err(failed)
        });
        left.inspect_err(|error| {
            let path = map.path().display();
            self.reporter.report(format!("{path}: {error}; everything counts as changed from now on"));
        })
        .ok()
    }
}

/// Until it is dropped, no diff begins.
struct Resizing<'a>(&'a Session);

impl<'a> Resizing<'a> {
    fn begin(session: &'a Session) -> Result<Self> {
        let mut running = session.running();
        let what = match &*running {
            Running::None => {
                *running = Running::Resizing;
                return Ok(Self(session));
            }
            Running::Never => return Err(over()),
            Running::Resizing => "the disk is being resized",
            Running::Begun | Running::Diff(_) => "the disk cannot be resized while its diff is written",
        };
        Err(Error::new(ErrorKind::Busy, what).hint("wait until that has ended"))
    }
}

impl Drop for Resizing<'_> {
    fn drop(&mut self) {
        let mut running = self.0.running();
        if matches!(&*running, Running::Resizing) {
            *running = Running::None;
        }
    }
}

impl Kept {
    fn position(&self, name: &str) -> Result<usize> {
        self.entries.iter().position(|entry| entry.name == name).ok_or_else(|| {
            let names: Vec<_> = self.entries.iter().map(|entry| &*entry.name).collect();
            let hint = if names.is_empty() {
                "make one first".into()
            } else {
                format!("there are {}", names.join(", "))
            };
            Error::new(ErrorKind::NotFound, format!("there is no checkpoint {name}")).hint(hint)
        })
    }

    /// A checkpoint that can be the next one.
    fn next(&self, name: &str) -> Result<Entry> {
        if self.entries.iter().any(|entry| entry.name == name) {
            return Err(Error::new(ErrorKind::Exists, format!("there is a checkpoint {name} already"))
                .hint("choose another name, or remove that one first"));
        }
        if self.entries.len() >= MOST {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("the disk has {MOST} checkpoints, and cannot have more"),
            )
            .hint("remove one that is not needed any more"));
        }
        let bits = Arc::new(Entry::table(self.size).map_err(|error| no_memory(&error))?);
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let made = u64::try_from(made.as_millis()).unwrap_or(u64::MAX);
        Ok(Entry { name: name.to_owned(), made, known: true, bits })
    }

    /// The checkpoints are these from now on, in the file as well.
    fn write(&mut self, entries: Vec<Entry>) -> Result<()> {
        self.record(&entries)?;
        self.entries = entries;
        Ok(())
    }

    /// The file has these checkpoints.
    fn record(&mut self, entries: &[Entry]) -> Result<()> {
        self.map.write_list(entries).map_err(|error| {
            let path = self.map.path().display();
            Error::system(format!("cannot write the change map {path}"), &error).kind(ErrorKind::Backend)
        })
    }
}

fn check_name(name: &str) -> Result<()> {
    let right = !name.is_empty() && name.len() <= MOST_NAME && !name.chars().any(char::is_control);
    if right {
        return Ok(());
    }
    Err(Error::invalid(format!("{name:?} is no name of a checkpoint"))
        .hint(format!("a name has 1 to {MOST_NAME} bytes, and no control characters")))
}

fn no_memory(error: &io::Error) -> Error {
    Error::system("cannot map memory for the change map", error)
}
