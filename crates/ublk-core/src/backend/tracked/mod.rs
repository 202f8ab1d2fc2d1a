//! A disk that records which of its blocks were changed since named [checkpoints](super::Changes).
//!
//! A write, discard or write-zeroes marks its blocks in a table of bits in memory before it is passed on to the disk below.
//! That costs no system call, lock or allocation. The tables are kept in a file ([`file`]) from one server to the next. A
//! server that does not end in an orderly way leaves a file in which everything counts as changed.
//!
//! The file is read when the first engine is created, since the previous server may write to it until then, and written
//! when the last engine is dropped, which comes before the claims on the disk's files end.

mod buffers;
mod copier;
mod diff;
mod engine;
mod file;
mod outgoing;
mod seats;
mod session;
#[cfg(test)]
mod tests;

use super::map_file::checksum;
use super::new_file::NewFile;
use super::{
    Backend, Changed, Changes, Checkpoint, Commit, CopyMode, Engine, Extent, FlattenProgress, LayerInfo,
    Properties, Sink, Site,
};
use crate::claim::upper::content_of;
use crate::claim::{Claims, Place, Role};
use crate::error::{Error, ErrorKind, Result};
use engine::TrackedEngine;
use file::{ChangeMap, Found, Left};
use session::Session;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// What the tables count in, in bytes.
pub const BLOCK: u64 = 4096;

/// See the [module](self).
pub struct Tracked {
    disk: Arc<dyn Backend>,
    new: NewFile,
    file: Arc<File>,
    path: PathBuf,
    read_only: bool,
    /// Stands for the content of a disk that has no file, as long as this process has it.
    here: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    size: u64,
    session: Option<Arc<Session>>,
    hold: Weak<Hold>,
    /// What the last session has left in the file.
    left: Option<Left>,
}

/// A session lasts as long as an engine holds this.
pub struct Hold {
    session: Arc<Session>,
    tracked: Arc<Tracked>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.tracked.state();
        // Else a new session has begun meanwhile, and the file is not this one's any more.
        if state.session.as_ref().is_some_and(|session| Arc::ptr_eq(session, &self.session)) {
            state.session = None;
            state.left = self.session.end(|| self.tracked.content());
        }
    }
}

impl Tracked {
    /// The same disk, with a change map in the file at `path`, which is created if it does not exist.
    pub fn open(disk: Arc<dyn Backend>, path: &Path, read_only: bool) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::system(format!("cannot use the change map {}", path.display()), &error)
                .kind(ErrorKind::Backend)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only).custom_flags(libc::O_NONBLOCK); // do not wait for a FIFO's writer
        let (file, new) = if read_only {
            (options.open(path).map_err(failed)?, NewFile::default())
        } else {
            NewFile::open_or_create(&options, path).map_err(failed)?
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("the change map {} is no regular file", path.display()),
            )
            .hint("name a file that is made for it"));
        }
        let size = disk.properties().size;
        // For an early error: it may still be another server's.
        file::check(&file, path, size)?;
        let here = RandomState::new().hash_one(path);
        let state = Mutex::new(State { size, ..State::default() });
        Ok(Self { disk, new, file: Arc::new(file), path: path.to_owned(), read_only, here, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all engines share. The first of them begins the session.
    fn hold(self: &Arc<Self>, site: &Site) -> Result<Arc<Hold>> {
        let mut state = self.state();
        if let Some(hold) = state.hold.upgrade() {
            return Ok(hold);
        }
        // Before the disk below gets an engine, which may change its files.
        let found = Found { size: state.size, content: self.content()?, read_only: self.read_only };
        let session = Arc::new(Session::begin(self.map(), &found, site.reporter())?);
        let hold = Arc::new(Hold { session: session.clone(), tracked: self.clone() });
        (state.session, state.hold, state.left) = (Some(session), Arc::downgrade(&hold), None);
        Ok(hold)
    }

    fn map(&self) -> ChangeMap {
        ChangeMap::new(self.file.clone(), &self.path)
    }

    /// The session, while the disk is served.
    fn served(&self) -> Result<Arc<Session>> {
        self.state().session.clone().ok_or_else(session::over)
    }

    /// What tells the content of the disk from that after changes that were not recorded: the sizes of its files, and when
    /// they were changed. A block device has no such time, and the upper of an overlay says who wrote to it.
    fn content(&self) -> Result<u64> {
        let mut words = Vec::new();
        for place in self.disk.places() {
            let failed = |error: io::Error| {
                Error::system(format!("cannot look at {}", place.path.display()), &error)
                    .kind(ErrorKind::Backend)
            };
            match place.role {
                Role::Disk => {
                    let found = place.file.metadata().map_err(failed)?;
                    words.push(1);
                    if !found.file_type().is_block_device() {
                        words.extend([
                            found.len(),
                            found.mtime().cast_unsigned(),
                            found.mtime_nsec().cast_unsigned(),
                        ]);
                    }
                }
                Role::Upper => words.push(checksum(content_of(place.file).map_err(failed)?.into_iter())),
                Role::Base | Role::Map | Role::BaseMap => {}
            }
        }
        if !self.disk.is_in_files() {
            words.push(self.here);
        }
        Ok(checksum(words.iter().flat_map(|word| word.to_le_bytes())))
    }

    /// Makes durable what the files of the disk below hold.
    fn sync(&self) -> io::Result<()> {
        self.disk.places().iter().filter(|place| place.writable).try_for_each(|place| place.file.sync_data())
    }
}

impl Backend for Tracked {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    /// Not [`CopyMode::User`], with which data may arrive at the disk below after its engine has answered: then a write
    /// could count as older than a checkpoint, and its data be newer.
    fn copy_modes(&self) -> Vec<CopyMode> {
        self.disk.copy_modes().into_iter().filter(|mode| *mode != CopyMode::User).collect()
    }

    fn takes_scattered(&self) -> bool {
        self.disk.takes_scattered()
    }

    fn places(&self) -> Vec<Place<'_>> {
        let (path, file, writable) = (&*self.path, &*self.file, !self.read_only);
        let map = Place { role: Role::Map, path, file, writable, claimed: true };
        self.disk.places().into_iter().chain([map]).collect()
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        self.disk.extents(part)
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let hold = self.hold(site)?;
        let below = site.below(self.disk.clone())?;
        self.new.keep();
        Ok(Box::new(TrackedEngine::new(below, hold, site)))
    }

    fn resize(&self, from: u64, to: u64) -> Result<()> {
        self.resize_told(from, to, &|_| Ok(()))
    }

    fn interrupt(&self, patience: Duration) -> Result<()> {
        self.disk.interrupt(patience)
    }

    fn resize_told(&self, from: u64, to: u64, tell: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let session = self.state().session.clone();
        match session {
            Some(session) => session.resize(from, to, || self.disk.resize_told(from, to, tell))?,
            None => self.disk.resize_told(from, to, tell)?,
        }
        self.state().size = to;
        Ok(())
    }

    fn identity(&self) -> Result<String> {
        self.disk.identity()
    }

    /// A checkpoint of that name, too, at the same instant: its table is the newest before the snapshot's layer is written. So
    /// a change that is not in the snapshot marks there: if it began before, when it ends. One that was answered before does
    /// not.
    fn snapshot(self: Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        if self.read_only {
            return self.disk.clone().snapshot(name, now); // it refuses that
        }
        self.served()?.checkpoint_at(name, |mark| {
            self.disk.clone().snapshot(name, &|| {
                mark();
                now();
            })
        })
    }

    fn reset(&self) -> Result<()> {
        let session = self.state().session.clone();
        match session {
            Some(session) => session.reset(|| self.disk.reset()),
            None => self.disk.reset(),
        }
    }

    fn flatten(self: Arc<Self>, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        self.disk.clone().flatten(rate, given_up)
    }

    fn flattening(&self) -> Option<FlattenProgress> {
        self.disk.flattening()
    }

    fn commit(self: Arc<Self>, how: &Commit<'_>) -> Result<()> {
        self.disk.clone().commit(how)
    }

    fn committing(&self) -> Option<FlattenProgress> {
        self.disk.committing()
    }

    fn layers(&self) -> Vec<LayerInfo> {
        self.disk.layers()
    }

    fn written_shares(&self, cell: u64) -> Option<Vec<u8>> {
        self.disk.written_shares(cell)
    }

    fn let_go(&self) {
        self.disk.let_go();
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.disk.take_back(size)?;
        self.state().size = size;
        Ok(())
    }

    fn check_claimed(&self) -> Result<()> {
        self.disk.check_claimed()
    }

    fn changes(&self) -> Option<&dyn Changes> {
        Some(self)
    }

    fn close(&self) -> Result<()> {
        let closed = self.disk.close();
        let left = self.state().left.take();
        if let (Some(left), Ok(()), false) = (left, &closed, self.read_only) {
            // Somebody else may use it already: then it is that server's to keep.
            if let Ok(_claim) = Claims::take(&self.places()[..], Duration::ZERO) {
                let sealed = self.sync().and_then(|()| self.map().seal(&left));
                return sealed.map_err(|error| {
                    Error::system(format!("cannot seal the change map {}", self.path.display()), &error)
                        .kind(ErrorKind::Backend)
                        .hint("after a power failure everything counts as changed")
                });
            }
        }
        closed
    }
}

impl Changes for Tracked {
    fn checkpoint(&self, name: &str) -> Result<()> {
        self.served()?.checkpoint(name)
    }

    fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        Ok(self.served()?.checkpoints())
    }

    fn remove_checkpoint(&self, name: &str) -> Result<()> {
        self.served()?.remove(name)
    }

    fn changed(&self, since: &str, from: u64, most: usize) -> Result<Changed> {
        self.served()?.changed(since, from, most)
    }

    fn diff(
        &self,
        since: Option<&str>,
        sink: &mut (dyn Sink + Send),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        self.served()?.diff(self.disk.clone(), since, sink, cancelled)
    }
}
