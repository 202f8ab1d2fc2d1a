//! A disk in a qcow2 image, whose mappings come from the crate `imago`, and whose data the ring moves: without a copy where
//! the driver allows it.
//!
//! **Threads.** Each disk has one thread, the [mapper](mapper), which alone calls imago, and blocks while it reads or writes
//! tables. What it learns it says in a [table](table), in which the queues look without a lock; a request whose clusters
//! are in the table never leaves its queue's thread. One that writes to a cluster without a place of its own asks the mapper
//! for one first. The mapper copies there what the cluster had; only then the request writes. So an image that is left at
//! any moment has, in each cluster, the old data or the new.
//!
//! **Discards never overtake data.** Before clusters are freed, the table forgets them, and the mapper waits until all
//! operations that were begun before are back. Freed places are used again, and punched, only when it is durable that nothing
//! points to them.
//!
//! **What survives.** Flush makes data durable, then reference counts, then mappings; see [order](order). A power cut at any
//! moment loses no flushed data, and leaves an image that `qemu-img check` finds free of errors; clusters may be leaked, that
//! is, counted and not used. The same holds if the server is killed. Then completed writes that were not flushed survive only
//! if mappings were written through ([`Options::through`]), which costs one durable write of reference counts for each batch of
//! requests that allocate; otherwise such a write may be lost if it was the first to its cluster.

mod chain;
mod engine;
mod header;
mod mapper;
mod order;
mod scratch;
mod session;
mod storage;
mod table;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use mapper::run as run_now;

use chain::Layer;
use engine::Qcow2Engine;
use session::Session;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use ublk_core::backend::{Backend, CopyMode, Discard, Engine, Extent, Place, Properties, Role, Site};
use ublk_core::error::{Error, ErrorKind, Result};

/// How an image is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// For a disk that refuses writes.
    pub read_only: bool,
    /// The files that may be opened as backing files, and the directories below which any may. Default: none.
    pub backing: Vec<PathBuf>,
    /// Mappings are written to the file before a write is answered: for a disk that outlives its server.
    pub through: bool,
    /// The files are not claimed while the disk is served.
    pub unclaimed: bool,
}

/// See the [module](self).
pub struct Qcow2 {
    layers: Arc<Vec<Layer>>,
    zeroes: File,
    size: u64,
    cluster: u32,
    writable: bool,
    discards: bool,
    through: bool,
    claimed: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// While there are engines.
    session: Option<Arc<Session>>,
    engines: usize,
    /// What went wrong when the last session ended.
    failure: Option<String>,
}

impl Qcow2 {
    /// How it can be given the data of requests, the best first.
    pub const COPY_MODES: &'static [CopyMode] = &[CopyMode::Zero, CopyMode::Copy];

    /// Opens an image and its backing files. Its tables are read when it begins to be served, since another server may
    /// still write to it.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let layers = chain::open(path, options)?;
        let Some(header) = &layers[0].header else {
            return Err(Error::invalid("an image has a header"));
        };
        let zeroes = File::open("/dev/zero")
            .map_err(|error| Error::system("cannot open /dev/zero", &error).kind(ErrorKind::System))?;
        let (size, cluster) = (header.size, 1 << header.cluster_bits);
        // Version 2 has no mark for a cluster of zeroes over a backing file.
        let discards = !options.read_only && (header.version >= 3 || layers.len() == 1);
        Ok(Self {
            layers: Arc::new(layers),
            zeroes,
            size,
            cluster,
            writable: !options.read_only,
            discards,
            through: options.through,
            claimed: !options.unclaimed,
            state: Mutex::default(),
        })
    }

    /// The paths of an image and its backing files.
    pub fn paths(path: &Path, backing: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let options = Options { read_only: true, backing: backing.to_vec(), ..Options::default() };
        Ok(chain::open(path, &options)?.into_iter().map(|layer| layer.path).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An engine is gone. With the last one the image is closed: another server may open it then.
    fn leave(&self) {
        let mut state = self.state();
        state.engines -= 1;
        if state.engines == 0
            && let Some(Err(error)) = state.session.take().map(|session| session.end())
        {
            state.failure = Some(error.to_string());
        }
    }
}

impl Backend for Qcow2 {
    fn properties(&self) -> Properties {
        let discard = Discard {
            granularity: self.cluster.max(4096),
            alignment: 0,
            max: 1 << 30,
            max_write_zeroes: 1 << 30,
        };
        Properties {
            write_cache: true,
            discard: self.discards.then_some(discard),
            ..Properties::new(self.size)
        }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        Self::COPY_MODES.to_vec()
    }

    fn places(&self) -> Vec<Place<'_>> {
        let place = |(index, layer): (usize, _)| {
            let Layer { path, file, .. }: &Layer = layer;
            let writable = index == 0 && self.writable;
            Place { role: Role::Disk, path, file, writable, claimed: self.claimed }
        };
        self.layers.iter().enumerate().map(place).collect()
    }

    /// Any of the image's bytes may hold any of the disk's.
    fn extents(&self, _part: Range<u64>) -> Vec<Extent<'_>> {
        self.places().into_iter().take(1).map(|place| Extent { place, range: 0..u64::MAX }).collect()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let mut state = self.state();
        let session = match &state.session {
            Some(session) => session.clone(),
            None => {
                let (layers, reporter) = (self.layers.clone(), site.reporter());
                Arc::new(Session::begin(layers, self.writable, self.through, reporter)?)
            }
        };
        state.session = Some(session.clone());
        state.engines += 1;
        drop(state);
        let engine = Qcow2Engine::new(self.clone(), session, &self.zeroes, site);
        Ok(Box::new(engine))
    }

    fn close(&self) -> Result<()> {
        match self.state().failure.take() {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::Backend,
                format!(
                    "the image could not be closed: data written since the last flush may be lost: {why}"
                ),
            )),
        }
    }
}
