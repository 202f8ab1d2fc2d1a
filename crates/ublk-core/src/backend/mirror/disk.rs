//! A disk that has the same data on several others, its sides.

use super::copier::Copier;
use super::engine::MirrorEngine;
use super::intents::Intents;
use super::map::{Map, part_of};
use super::reading::ReadingEngine;
use super::sides::{MOST_SIDES, Sides, Status};
use crate::backend::overlay::FlattenProgress;
use crate::backend::reader::Reader;
use crate::backend::{Backend, Engine, Extent, Properties, Site, identity, parts};
use crate::claim::{Place, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use crate::queue::{CopyMode, Op};
use crate::report::Reporter;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often parts that did not change since the last time are told from others.
const TIDY: Duration = Duration::from_secs(5);
/// How often one who waits for another resync looks.
const LOOK: Duration = Duration::from_millis(10);
/// How long changes in flight may take.
const CHANGES: Duration = Duration::from_secs(30);

/// What is known of a side.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SideInfo {
    /// Its files, or what else it is.
    pub name: String,
    /// It has all of the disk.
    pub current: bool,
    /// Bytes that it may lack.
    pub missing: u64,
    /// It is being filled.
    pub filling: bool,
}

/// See the [module](self).
pub struct Mirror {
    disks: Vec<Arc<dyn Backend>>,
    size: u64,
    names: Vec<String>,
    file: Option<(File, PathBuf)>,
    state: Mutex<Option<Arc<Running>>>,
}

/// What there is while it is served.
struct Running {
    sides: Arc<Sides>,
    intents: Option<Arc<Intents>>,
    map: Option<Mutex<Map>>,
    disks: Vec<Arc<dyn Backend>>,
    names: Vec<String>,
    reporter: Mutex<Option<Reporter>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    /// Something copies.
    copying: Mutex<()>,
    done: AtomicU64,
    copies: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirror {
    /// Of two to eight disks of one size. `map`: the path of the file that remembers which of them have all; it is made if it does not
    /// exist, and then the first disk has all. Disks that outlive this process need one.
    pub fn new(disks: Vec<Arc<dyn Backend>>, map: Option<&Path>, read_only: bool) -> Result<Self> {
        if disks.len() < 2 || disks.len() > MOST_SIDES {
            return Err(Error::invalid(format!("a mirror of {} disks is not possible", disks.len()))
                .hint(format!("name two to {MOST_SIDES}")));
        }
        let size = disks[0].properties().size;
        for (at, disk) in disks.iter().enumerate() {
            let other = disk.properties().size;
            if other != size {
                return Err(Error::invalid(format!(
                    "the mirror's disks have different sizes: {size} bytes, and {other} for number {}",
                    at + 1
                ))
                .hint("make it of disks of one size, for instance of slices"));
            }
        }
        parts::check_apart("mirror", &disks)?;
        if map.is_none() && disks.iter().any(|disk| disk.is_in_files()) {
            return Err(Error::invalid("a mirror of disks that outlive their server needs a map").hint(
                "name a file for it: without it nobody knows which disk is the newer one after a crash",
            ));
        }
        let names = disks.iter().map(name_of).collect::<Result<_>>()?;
        let file = map.map(|path| Map::file(path, read_only)).transpose()?;
        Ok(Self { disks, size, names, file, state: Mutex::default() })
    }

    /// Reads the map, and what follows from it.
    fn begin(&self) -> Result<Arc<Running>> {
        if self.running().is_some_and(|running| running.sides.has_ended()) {
            self.end(); // somebody else may have served it since
        }
        let mut state = locked(&self.state);
        if let Some(running) = &*state {
            return Ok(running.clone());
        }
        let map = match &self.file {
            None => None,
            Some((file, path)) => {
                let again = file.try_clone().map_err(|error| Error::system("cannot use the map", &error))?;
                Some(Map::load(Box::new(again), &path.display().to_string(), self.size, &self.names)?)
            }
        };
        let running = Running::new(self, map)?;
        *state = Some(running.clone());
        Ok(running)
    }

    fn running(&self) -> Option<Arc<Running>> {
        locked(&self.state).clone()
    }

    /// Fills sides that were given up with what they lack, at most `rate` bytes a second. Blocks until that is done, it fails, or it is
    /// `given_up`.
    fn fill(&self, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        let Some(running) = self.running().filter(|running| !running.sides.has_ended()) else {
            return Err(Error::new(ErrorKind::Closed, "the disk is not served, so it is not resynced"));
        };
        running.resync(rate, given_up, true)
    }

    fn end(&self) {
        let running = {
            let mut state = locked(&self.state);
            // Without a map only this process knows which side has all.
            if self.file.is_some() { state.take() } else { state.clone() }
        };
        if let Some(running) = running {
            running.sides.end();
            let keeper = locked(&running.keeper).take();
            if let Some(keeper) = keeper {
                let _ = keeper.join();
            }
        }
    }
}

/// What tells a side from others: its files, or what it says of itself.
fn name_of(disk: &Arc<dyn Backend>) -> Result<String> {
    let places: Vec<_> =
        disk.places().iter().map(|place| place.path.to_string_lossy().into_owned()).collect();
    if places.is_empty() { disk.identity() } else { Ok(places.join(", ")) }
}

impl Running {
    fn new(mirror: &Mirror, map: Option<Map>) -> Result<Arc<Self>> {
        let number = mirror.disks.len();
        let sides = Arc::new(Sides::new(mirror.size, part_of(mirror.size), number, None)?);
        let intents = map.as_ref().map(|_| Intents::new(sides.clone())).transpose()?;
        let (mut current, mut unknown) = match &map {
            None => (1, !1),
            Some(map) => (map.header().current, map.header().unknown),
        };
        if map.is_some() {
            // What was in memory is gone.
            for (side, _) in mirror.disks.iter().enumerate().filter(|(_, disk)| !disk.is_in_files()) {
                (current, unknown) = (current & !(1 << side), unknown | 1 << side);
            }
        }
        let mut source = None;
        for side in 0..number {
            let has = current & 1 << side != 0;
            if has && source.is_none() {
                source = Some(side);
                sides.set_status(side, Status::Equal);
                continue;
            }
            let dirty = &sides.side(side).dirty;
            match &map {
                Some(map) if unknown & 1 << side == 0 => dirty.add(&map.bits),
                _ => dirty.set_all(0..sides.parts()),
            }
            // Nothing differs: no need to look.
            let equal = has && dirty.count() == 0;
            sides.set_status(side, if equal { Status::Equal } else { Status::Filling });
        }
        if source.is_none() {
            return Err(Error::new(ErrorKind::Backend, "no disk of the mirror has all of it")
                .hint("those that had all were in memory, which is gone"));
        }
        if let (Some(map), Some(intents)) = (&map, &intents) {
            intents.noted.add(&map.bits);
        }
        Ok(Arc::new(Self {
            sides,
            intents: intents.map(Arc::new),
            map: map.map(Mutex::new),
            disks: mirror.disks.clone(),
            names: mirror.names.clone(),
            reporter: Mutex::default(),
            keeper: Mutex::default(),
            copying: Mutex::default(),
            done: AtomicU64::new(0),
            copies: AtomicBool::new(false),
        }))
    }

    fn report(&self, line: String) {
        if let Some(reporter) = &*locked(&self.reporter) {
            reporter.report(line);
        }
    }

    /// Starts what it does besides requests, once.
    fn keep(self: &Arc<Self>, reporter: Reporter) {
        locked(&self.reporter).get_or_insert(reporter);
        let mut keeper = locked(&self.keeper);
        if keeper.is_some() {
            return;
        }
        let running = self.clone();
        let thread = std::thread::Builder::new().name("ublk-mirror".into());
        match thread.spawn(move || running.run()) {
            Ok(thread) => *keeper = Some(thread),
            Err(error) => self.report(format!("no thread can keep the mirror's map: {error}")),
        }
    }

    fn run(self: Arc<Self>) {
        let _flusher = IoFlusher::new(); // if it cannot be one, it is a thread like that of any other program
        let filler = self.clone();
        let filling = std::thread::Builder::new().name("ublk-resync".into()).spawn(move || {
            let _flusher = IoFlusher::new();
            let ended = || filler.sides.has_ended();
            if let Err(error) = filler.resync(None, &ended, false)
                && !ended()
            {
                filler.report(format!("the mirror's disks are not equal yet: {error}"));
            }
        });
        let mut tidied = Instant::now();
        loop {
            self.sides.wait(TIDY);
            self.give_up_failed();
            self.note();
            let ended = self.sides.has_ended();
            if ended || tidied.elapsed() >= TIDY {
                self.tidy(ended);
                tidied = Instant::now();
            }
            if ended {
                break;
            }
        }
        if let Ok(filling) = filling {
            let _ = filling.join();
        }
    }

    fn note(&self) {
        if let (Some(intents), Some(map)) = (&self.intents, &self.map) {
            let mut note = |parts: &[Range<u64>]| locked(map).set(parts);
            if let Err(error) = intents.serve(&mut note) {
                self.report(format!("{error}: writes fail"));
            }
        }
    }

    /// Sides that have failed are not used any more, once the map says so.
    fn give_up_failed(&self) {
        for side in 0..self.sides.number() {
            let Some(errno) = self.sides.failure(side).filter(|_| self.sides.status(side) == Status::Equal)
            else {
                continue;
            };
            if self.sides.equal() & !(1 << side) == 0 {
                self.sides.forgive(side); // nobody else has all
                continue;
            }
            if let Some(map) = &self.map {
                let mut map = locked(map);
                let header = map.header();
                if let Err(error) = map.set_sides(header.current & !(1 << side), header.unknown) {
                    drop(map);
                    self.report(format!("{error}: requests wait until it can be written"));
                    continue;
                }
            }
            self.sides.give_up(side);
            let why = std::io::Error::from_raw_os_error(errno);
            self.report(format!(
                "side {} of the mirror, {}, has failed ({why}) and is used no more, until it is resynced",
                side + 1,
                self.names[side]
            ));
        }
    }

    /// Clears the bits of parts that are equal on all sides, and did not change for a while.
    fn tidy(&self, ended: bool) {
        let (Some(intents), Some(map)) = (&self.intents, &self.map) else { return };
        let all = (1 << self.sides.number()) - 1;
        let is_whole = || {
            u64::from(self.sides.equal()) == all
                && locked(map).header().current == all
                && (0..self.sides.number()).all(|side| self.sides.failure(side).is_none())
        };
        if intents.noted.count() == 0 || !is_whole() {
            return;
        }
        // What has changed since the last time stays. The others have to be noted anew from here on.
        let busy: Vec<u64> = if ended { Vec::new() } else { set_bits(&intents.recent, self.sides.parts()) };
        for part in set_bits(&intents.noted, self.sides.parts()) {
            intents.recent.clear(part);
            if busy.binary_search(&part).is_err() {
                intents.noted.clear(part);
            }
        }
        let era = if ended { Ok(()) } else { self.sides.queues.hold_changes(&(0..0), CHANGES) };
        self.sides.queues.go_on();
        let flushed = era.and_then(|()| self.flush());
        let done = flushed.and_then(|()| if is_whole() { locked(map).keep(&intents.noted) } else { Ok(()) });
        if done.is_err() || !is_whole() {
            // They stay in the map, and so they need not be noted again.
            intents.noted.add(&locked(map).bits);
        }
    }

    fn flush(&self) -> Result<()> {
        for disk in &self.disks {
            let reporter = locked(&self.reporter).clone().unwrap_or_else(|| Reporter::new(|_| {}));
            let mut side = Reader::changing(disk.clone(), 1, 4096, reporter)?;
            let nothing = std::slice::from_ref(&(0..0));
            side.change_unless(&|| false, Op::Flush, nothing, &|_, _| {}).map_err(|errno| {
                let error = std::io::Error::from_raw_os_error(errno);
                Error::system("cannot flush a side of the mirror", &error).kind(ErrorKind::Backend)
            })?;
        }
        Ok(())
    }

    /// Fills all sides that are not equal. `again`: those that were given up, too.
    fn resync(&self, rate: Option<u64>, given_up: &dyn Fn() -> bool, again: bool) -> Result<()> {
        // One at a time: what follows a crash goes first.
        let _copying = loop {
            match self.copying.try_lock() {
                Ok(guard) => break guard,
                Err(TryLockError::Poisoned(guard)) => break guard.into_inner(),
                Err(TryLockError::WouldBlock) if given_up() || self.sides.has_ended() => {
                    return Err(Error::new(ErrorKind::Cancelled, "the resync was cancelled"));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
            }
        };
        let mut failed = Ok(());
        for side in 0..self.sides.number() {
            if again && self.sides.status(side) == Status::Off {
                self.bring_back(side)?;
            }
            if self.sides.status(side) == Status::Filling {
                let filled = self.fill(side, rate, given_up);
                self.copies.store(false, SeqCst);
                failed = failed.and(filled);
            }
        }
        failed
    }

    /// A side that was given up gets changes again, where it has what was there before.
    fn bring_back(&self, side: usize) -> Result<()> {
        let dirty = &self.sides.side(side).dirty;
        dirty.set_all(0..self.sides.parts());
        self.sides.forgive(side);
        self.sides.set_status(side, Status::Filling);
        let (Some(intents), Some(map)) = (&self.intents, &self.map) else { return Ok(()) };
        if locked(map).header().unknown & 1 << side != 0 {
            return Ok(());
        }
        // No change is in flight that saw the side as given up, and none begins: so all that it lacks is noted.
        let held = self.sides.queues.hold_changes(&(0..self.sides.size), CHANGES);
        if held.is_ok() {
            dirty.keep(&intents.noted);
        }
        self.sides.queues.go_on();
        held
    }

    fn fill(&self, side: usize, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        let given_up = || given_up() || self.sides.has_ended() || self.sides.failure(side).is_some();
        let source = (0..self.sides.number())
            .find(|source| self.sides.status(*source) == Status::Equal)
            .ok_or_else(|| Error::new(ErrorKind::Backend, "no disk of the mirror has all of it"))?;
        let reporter = locked(&self.reporter).clone().unwrap_or_else(|| Reporter::new(|_| {}));
        let (from, to) = (&self.disks[source], &self.disks[side]);
        let mut copier = Copier::new(self.sides.clone(), side, from, to, &reporter)?;
        self.copies.store(true, SeqCst);
        let progress = |missing: u64| {
            self.done.store(self.sides.size.saturating_sub(missing * self.sides.part), SeqCst);
        };
        let filled = copier.run(rate, &given_up, &progress).and_then(|()| {
            self.sides.set_status(side, Status::Equal);
            let era = self.sides.queues.hold_changes(&(0..0), CHANGES);
            self.sides.queues.go_on();
            era?;
            copier.flush(&given_up)
        });
        let failed = self.sides.failure(side);
        if filled.is_err() || failed.is_some() {
            if filled.is_err() && !self.sides.has_ended() {
                self.sides.give_up(side); // the map does not say that it is current
            }
            return Err(filled.err().unwrap_or_else(|| {
                let error = std::io::Error::from_raw_os_error(failed.unwrap_or(libc::EIO));
                Error::system("cannot write to the other disk", &error).kind(ErrorKind::Backend)
            }));
        }
        if let Some(map) = &self.map {
            let mut map = locked(map);
            let header = map.header();
            map.set_sides(header.current | 1 << side, header.unknown & !(1 << side))?;
        }
        self.report(format!("side {} of the mirror, {}, has all of it", side + 1, self.names[side]));
        Ok(())
    }
}

fn set_bits(bits: &crate::backend::bits::Bits, end: u64) -> Vec<u64> {
    let (mut at, mut set) = (0, Vec::new());
    while let Some(bit) = bits.next_within(at..end) {
        set.push(bit);
        at = bit + 1;
    }
    set
}

impl Backend for Mirror {
    fn properties(&self) -> Properties {
        let all: Vec<_> = self.disks.iter().map(|disk| disk.properties()).collect();
        let chunk = all.iter().fold(0, |chunk, disk| match (chunk, disk.chunk) {
            (0, chunk) | (chunk, 0) => chunk,
            (one, other) => parts::common_chunk(one, other.into()),
        });
        let whole = all.iter().map(|disk| disk.physical_block).filter(|whole| *whole > 0).min();
        Properties { chunk, physical_block: whole.unwrap_or(0), ..parts::together(&self.disks, self.size) }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        parts::copy_modes(&self.disks)
    }

    fn places(&self) -> Vec<Place<'_>> {
        let map = self.file.iter().map(|(file, path)| Place {
            role: Role::Map,
            path,
            file,
            writable: true,
            claimed: true,
        });
        parts::places(&self.disks).into_iter().chain(map).collect()
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        self.disks.iter().flat_map(|disk| disk.extents(part.clone())).collect()
    }

    fn is_in_files(&self) -> bool {
        self.disks.iter().any(|disk| disk.is_in_files())
    }

    fn identity(&self) -> Result<String> {
        identity::together("a mirror", &self.disks)
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let running = self.begin()?;
        let below = self.disks.iter().map(|disk| site.below(disk.clone())).collect::<Result<Vec<_>>>()?;
        if site.is_of_reader() {
            return Ok(Box::new(ReadingEngine::new(below, running.sides.clone(), site.depth())));
        }
        let (completer, reporter) = (site.completer(), site.reporter());
        let (sides, intents) = (running.sides.clone(), running.intents.clone());
        site.operations(u16::try_from(below.len()).unwrap_or(1));
        let engine = MirrorEngine::new(
            below,
            sides,
            completer,
            reporter.clone(),
            intents,
            site.durable(),
            site.depth(),
        );
        running.keep(reporter);
        Ok(Box::new(engine))
    }

    fn resync(&self, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        self.fill(rate, given_up)
    }

    fn resyncing(&self) -> Option<FlattenProgress> {
        let running = self.running().filter(|running| running.copies.load(SeqCst))?;
        Some(FlattenProgress::new(running.done.load(SeqCst), self.size))
    }

    fn sides(&self) -> Vec<SideInfo> {
        let Some(running) = self.running() else { return Vec::new() };
        let info = |side: usize| {
            let status = running.sides.status(side);
            let lacks = match (status, &running.intents) {
                (Status::Equal, _) => 0,
                (Status::Filling, _) => running.sides.side(side).dirty.count(),
                (Status::Off, Some(intents)) => intents.noted.count(),
                (Status::Off, None) => running.sides.parts(),
            };
            SideInfo {
                name: running.names[side].clone(),
                current: status == Status::Equal,
                missing: (lacks * running.sides.part).min(self.size),
                filling: status == Status::Filling,
            }
        };
        (0..self.disks.len()).map(info).collect()
    }

    fn let_go(&self) {
        self.end();
        self.disks.iter().for_each(|disk| disk.let_go());
    }

    fn take_back(&self, _size: u64) -> Result<()> {
        self.disks.iter().try_for_each(|disk| disk.take_back(disk.properties().size))
    }

    fn check_claimed(&self) -> Result<()> {
        self.disks.iter().try_for_each(|disk| disk.check_claimed())?;
        self.begin().map(drop)
    }

    fn close(&self) -> Result<()> {
        self.end();
        parts::close(&self.disks)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.end();
    }
}
