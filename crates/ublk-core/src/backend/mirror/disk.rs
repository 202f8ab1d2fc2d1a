//! A disk that has the same data on several others, its sides.

use super::engine::MirrorEngine;
use super::map::Map;
use super::reading::ReadingEngine;
use super::running::Running;
use super::sides::{MOST_SIDES, Status};
use crate::backend::overlay::FlattenProgress;
use crate::backend::{Backend, Engine, Extent, Properties, Site, identity, parts};
use crate::claim::{Place, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::CopyMode;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    pub(super) disks: Vec<Arc<dyn Backend>>,
    pub(super) size: u64,
    pub(super) names: Vec<String>,
    file: Option<(File, PathBuf)>,
    state: Mutex<Option<Arc<Running>>>,
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
