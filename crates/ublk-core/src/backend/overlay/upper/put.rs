//! Puts what the layers below an upper have into the file of the base, while the disk is in use.
//!
//! In this order, of which each step is durable before the next one begins:
//!
//! 1. The layers are sealed: they have all that is put into the base.
//! 2. The upper above them says which file the base is. From here on whoever opens the upper takes that file as the base,
//!    though it was changed since.
//! 3. The base gets another time, so that other uppers over it are refused whatever of the data reaches the medium.
//! 4. What the layers have is written to the base, also where the upper hides it: the base is what a reset goes back to.
//! 5. The base is synced.
//! 6. The upper says, in one sector, that the base has this identity and that the layers are not needed.
//! 7. The files of the layers are removed, the lowest first, and then the upper forgets them.
//!
//! So at every moment before 6 the layers hide whatever the base has of their data: the old, the new or a part of it. Nothing
//! else in the base changes. From 6 on the base has that data. A put that ends anywhere before 6 is done again from its
//! beginning, which gives the same.

use super::file::{read, system};
use super::format::{PAGE, State};
use super::medium::Medium;
use super::store::Store;
use super::{MOST_LAYERS, Upper};
use crate::backend::map_file::{directory, sync_parent};
use crate::backend::overlay::index::Index;
use crate::backend::overlay::zeroes;
use crate::claim;
use crate::error::Result;
use crate::number::to_usize;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The most bytes that are copied at a time.
const PART: u64 = 1 << 20;
/// The base is synced after that many bytes, so that the last sync does not take long.
const SYNC: u64 = 64 << 20;

/// Stands before the number of a snapshot that a commit has made. No user can give a snapshot such a name.
const OF_COMMIT: &str = "commit~";

/// The name of the snapshot that a commit makes.
pub fn name_of_commit(number: u32) -> String {
    format!("{OF_COMMIT}{number}")
}

/// Whether only a commit makes a snapshot of that name.
pub fn is_name_of_commit(name: &str) -> bool {
    let number = name.strip_prefix(OF_COMMIT);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Whether the snapshot in that file was made by a commit.
pub fn is_of_commit(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('.').is_some_and(|(_, name)| is_name_of_commit(name))
}

/// How layers are copied to a base.
pub struct Copying<'a, B> {
    /// The base.
    pub base: &'a B,
    /// Of the disk, in bytes.
    pub size: u64,
    /// The most bytes of a part.
    pub most: u64,
    /// Called before each part with where it begins and 0, and after it with its end and how many bytes were copied. An error
    /// ends the copying.
    pub pace: &'a mut dyn FnMut(u64, u64) -> io::Result<()>,
    /// Called before that many bytes that are not zero are written where the base has holes. An error ends the copying.
    pub room: &'a dyn Fn(u64) -> io::Result<()>,
}

/// How they are put into it.
pub struct Put<'a, B> {
    /// How they are copied.
    pub copying: Copying<'a, B>,
    /// Which file the base is.
    pub into: u64,
    /// Gives the base the present time, durably.
    pub stamp: &'a dyn Fn() -> io::Result<()>,
}

impl<B: Medium> Put<'_, B> {
    /// Steps 2 to 6 of the [module](self), of these layers, the lowest first. `name` tells the base's identity.
    pub fn below<M: Medium>(
        mut self,
        top: &Store<M>,
        layers: &[&Store<M>],
        name: &dyn Fn() -> io::Result<String>,
    ) -> io::Result<()> {
        top.begin_put(self.into)?;
        (self.stamp)()?;
        self.copy(top, layers, name)?;
        (self.stamp)()?;
        top.end_put(name()?)
    }

    /// If it fails, the upper says which identity the base was left with, if that is possible: so the base can be found again.
    fn copy<M: Medium>(
        &mut self,
        top: &Store<M>,
        layers: &[&Store<M>],
        name: &dyn Fn() -> io::Result<String>,
    ) -> io::Result<()> {
        self.copying.copy(layers).inspect_err(|_| {
            let _ = (self.stamp)().and_then(|()| name()).and_then(|name| top.pause_put(&name));
        })
    }

    /// The same with the upper itself, the last of the layers, while nobody serves the disk: from the first step on nobody
    /// does. When it has ended, the upper is not needed.
    pub fn whole<M: Medium>(
        mut self,
        layers: &[&Store<M>],
        name: &dyn Fn() -> io::Result<String>,
    ) -> io::Result<()> {
        let Some(top) = layers.last() else { return Ok(()) };
        top.save()?;
        top.change(|header| {
            (header.state, header.into, header.partly) = (State::Committing, self.into, 0);
        })?;
        (self.stamp)()?;
        self.copy(top, layers, name)
    }
}

impl<B: Medium> Copying<'_, B> {
    /// Writes to the base what the layers have, and syncs it.
    pub fn copy<M: Medium>(&mut self, layers: &[&Store<M>]) -> io::Result<()> {
        let index = Index::new();
        for (number, layer) in (1..).zip(layers) {
            layer.present(&mut |range| index.mark(range, number))?;
        }
        let (mut at, mut unsynced, mut data) = (0, 0, Vec::new());
        // Which layer has what comes next, and up to where: it is looked for once, however long it is.
        let (mut number, mut end) = (0, 0);
        while at < self.size {
            (self.pace)(at, 0)?;
            if at == end {
                let (found, length) = index.find(at, self.size - at);
                (number, end) = (found, at + length);
            }
            let found = end - at;
            let Some(layer) = usize::from(number).checked_sub(1).and_then(|at| layers.get(at)) else {
                at += found;
                continue;
            };
            let run = found.min(self.most.clamp(1, PART));
            data.resize(to_usize(run), 0);
            layer.medium().read(&mut data, layer.layout().data() + at)?;
            let parts: Vec<_> = zeroes::parts(at, &data).collect();
            let bytes: usize = parts.iter().filter(|(.., zero)| !zero).map(|(_, part, _)| part.len()).sum();
            if bytes > 0 && self.base.data(at..at + run)? != Some(at..at + run) {
                (self.room)(bytes as u64)?;
            }
            for (at, part, zero) in parts {
                let punched = zero && self.base.punch(at, part.len() as u64).is_ok();
                if !punched {
                    self.base.write(part, at)?;
                }
            }
            (at, unsynced) = (at + run, unsynced + run);
            if unsynced >= SYNC {
                self.base.sync()?;
                unsynced = 0;
            }
            (self.pace)(at, run)?;
        }
        self.base.sync()
    }
}

impl Upper {
    /// If it was being put into its base, or what lies below it was, and that was interrupted: the base's identity before, and
    /// whether that file, with that identity now, is the base.
    pub fn committed_at(path: &Path, file: u64, identity: &str) -> Result<Option<(String, bool)>> {
        let header = read(path, false, false)?.1;
        let is_it = header.is_put_into(Some(file), identity);
        Ok((header.state == State::Committing || header.into != 0).then_some((header.base, is_it)))
    }

    /// Whether that was being done while its disk was in use.
    pub fn is_putting_at(path: &Path) -> Result<bool> {
        let header = read(path, false, false)?.1;
        Ok(header.state != State::Committing && header.into != 0)
    }

    /// Whether what lies below it is being put into the base, or that was interrupted.
    pub fn is_putting(&self) -> bool {
        self.store.header().into != 0
    }

    /// Whether this layer below `top` is a snapshot that nobody can use any more after a commit of `top`, and that was not so
    /// already: a commit that was interrupted was allowed to spoil the snapshots from before it, and not those from after it.
    /// These say the same of their base as the upper above them.
    pub fn is_spoilt_by_commit(&self, top: &Self) -> bool {
        let header = top.store.header();
        let begun = header.into != 0 || header.state == State::Committing;
        !is_of_commit(self.path()) && (!begun || self.is_putting())
    }

    /// Whether that file, with that identity now, is the base into which that is put.
    pub fn is_put_into(&self, file: Option<u64>, identity: &str) -> bool {
        self.store.header().is_put_into(file, identity)
    }

    /// Puts what these layers have, the lowest first, into the base: see the [module](self). They are all that lies below.
    pub fn put_below(
        &self,
        layers: &[&Self],
        how: Put<'_, File>,
        name: &dyn Fn() -> io::Result<String>,
    ) -> io::Result<()> {
        // What is written to one later would be lost with its file.
        if let Some(layer) = layers.iter().find(|layer| !layer.read_only && !layer.is_sealed()) {
            return Err(io::Error::other(format!("{} may still be written", layer.path().display())));
        }
        let layers: Vec<_> = layers.iter().map(|layer| &*layer.store).collect();
        how.below(&self.store, &layers, name)
    }

    /// Puts all of a chain, the lowest layer first, into the base: see [`Put::whole`].
    pub fn put_whole(
        layers: &[Self],
        how: Put<'_, File>,
        name: &dyn Fn() -> io::Result<String>,
    ) -> io::Result<()> {
        let layers: Vec<_> = layers.iter().map(|layer| &*layer.store).collect();
        how.whole(&layers, name)
    }

    /// Removes the files of the layers that the base has, as far as they are of the same disk. The lowest first: so those that
    /// are left are found the next time. `own`: those that this server has open and nobody here reads any more. They are
    /// unlocked, and take up no space from then on unless another process has them open.
    pub fn remove_below(&self, own: &[&Self]) -> Result<()> {
        let header = self.store.header();
        if !header.put {
            return Ok(());
        }
        let failed = |error: io::Error| system(self.path(), &error);
        for path in self.files_below().iter().rev() {
            let emptied = own.iter().find_map(|layer| layer.emptied(path));
            fs::remove_file(path).map_err(|error| system(path, &error))?;
            drop(emptied); // whoever waits for it finds that it is removed
        }
        sync_parent(self.path()).and_then(|()| self.store.end_removal()).map_err(failed)
    }

    /// Gives the space of this layer back if its file is at that path, and nobody else has it open: it takes up space as long as
    /// this server has it open. Returns the file, which is locked.
    fn emptied(&self, path: &Path) -> Option<File> {
        let (file, header) = read(path, true, true).ok()?;
        if header.uuid != self.uuid() || !self.is_at(path) {
            return None;
        }
        claim::let_go(&self.file);
        if !claim::is_free(&file) {
            return None; // a fork of it, for instance, may read it until it is closed
        }
        let _ = file.length().and_then(|length| file.cut(PAGE.min(length), length));
        Some(file)
    }

    /// The files of the layers below that are of the same disk, the highest first.
    pub fn files_below(&self) -> Vec<PathBuf> {
        let header = self.store.header();
        let (mut found, mut next) = (Vec::<PathBuf>::new(), header.parent);
        while let Some(parent) = next.take().filter(|_| found.len() < MOST_LAYERS) {
            let path = directory(self.path()).join(&parent.name);
            if let Ok((_, its)) = read(&path, false, true)
                && its.uuid == parent.uuid
                && its.disk == header.disk
            {
                next = its.parent;
                found.push(path);
            }
        }
        found
    }
}
