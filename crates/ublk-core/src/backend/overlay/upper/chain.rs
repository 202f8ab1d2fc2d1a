//! Layers upon layers: how a snapshot makes one, and how they are found again.

use super::file::read;
use super::format::{Header, MOST_NAME, State, refused};
use super::names::{exchange, same, with_suffix};
use super::put::is_name_of_commit;
use super::{Parent, Shape, Upper};
use crate::backend::map_file::{directory, sync_parent};
use crate::error::{Error, ErrorKind, Result};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most uppers of a disk.
pub const MOST_LAYERS: usize = 16;

impl Upper {
    /// The upper at `path` and all that it was made over, the lowest first. Only the last one is written, unless `read_only`.
    pub fn open_chain(path: &Path, shape: &Shape<'_>, read_only: bool) -> Result<Vec<Self>> {
        let top = Self::open(path, shape, read_only)?;
        if !read_only {
            let _ = top.remove_below(&[]); // what is left is removed the next time
        }
        let base = top.is_putting().then(|| top.base());
        // The base was changed since by what was put into it.
        let shape = &Shape { base: base.as_deref().unwrap_or(shape.base), ..shape.clone() };
        let mut layers = vec![top];
        while let Some(parent) = layers.last().and_then(Self::parent) {
            if layers.iter().any(|layer| layer.uuid() == parent.uuid) {
                return Err(refused(path, format!("is its own snapshot: {} leads back to it", parent.name))
                    .hint("use a copy of the files from before they were renamed"));
            }
            if layers.len() == MOST_LAYERS {
                return Err(
                    refused(path, format!("has more than {MOST_LAYERS} layers")).hint("commit some of them")
                );
            }
            let above = layers.last().map_or(path, Self::path).to_owned();
            layers.push(Self::open_layer(&above, &parent, shape)?);
        }
        layers.reverse();
        Ok(layers)
    }

    /// What the upper at `above` was made over.
    fn open_layer(above: &Path, parent: &Parent, shape: &Shape<'_>) -> Result<Self> {
        let path = directory(above).join(&parent.name);
        let is_there = path.symlink_metadata();
        if is_there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(refused(
                above,
                format!("was made over the snapshot {}, which does not exist", path.display()),
            )
            .hint("both have to be in one directory, under the names that they were made with"));
        }
        let header = read(&path, false, true)?.1;
        if header.uuid != parent.uuid {
            return Err(refused(above, format!("was made over another snapshot than {}", path.display()))
                .hint("restore the file that had this name when the snapshot was made"));
        }
        let shape = Shape { parent: None, ..shape.clone() };
        if header.state == State::Written {
            // A server was killed when it had made a snapshot, and before all writes to the layer below it had ended.
            Self::open_as(&path, &shape, false, true)?.seal()?;
        }
        Self::open_as(&path, &shape, true, true)
    }

    /// A snapshot: what was written until now stays as it is, under the path of this upper with `.name` behind it. Returns a
    /// new upper, which has the path from here on, and is over this one. Both are durable then, and after a crash the path
    /// leads to one of them.
    ///
    /// Writes may still go to this upper until it is [sealed](Self::seal), which has to follow. One that is not, since the
    /// server was killed, is sealed when the chain is opened.
    pub fn snapshot(&self, name: &str) -> Result<Arc<Self>> {
        self.prepare_snapshot(name)?.take_place_of(self)
    }

    /// The first part of a [snapshot](Self::snapshot), after which nothing has changed yet.
    pub fn prepare_snapshot(&self, name: &str) -> Result<Prepared> {
        let header = self.store.header();
        let path = self.path();
        if !is_name(name) && !is_name_of_commit(name) {
            return Err(no_name(name));
        }
        if header.state != State::Written || self.read_only {
            return Err(refused(path, "is not written, so there is nothing to make a snapshot of"));
        }
        let below = with_suffix(path, &format!(".{name}"));
        let parent = Parent { uuid: header.uuid, name: file_name(&below)? };
        if !self.is_at(path) {
            return Err(
                refused(path, "was renamed or replaced while it was in use").hint("give it its name again")
            );
        }
        if below.symlink_metadata().is_ok() {
            if !left_over(&below, path, &parent) {
                return Err(Error::new(ErrorKind::Backend, format!("{} exists already", below.display()))
                    .hint("use another name for the snapshot, or remove that file"));
            }
            fs::remove_file(&below).map_err(|error| failed(&below, &error))?;
        }
        let block_size = u32::try_from(header.block_size).unwrap_or(512);
        let (parent, alone) = (Some(parent), header.alone);
        let (size, base) = (header.size, &*header.base);
        let shape = Shape { size, block_size, base, parent, alone, ..Shape::default() };
        let new = Self::create_at(&below, path, &shape, Some(&header))?;
        Ok(Prepared { new: Arc::new(new), below, done: false })
    }

    /// A new upper over this one, which is sealed, in the same directory: of another disk, or for the same.
    pub fn fork(&self, path: &Path) -> Result<Self> {
        let header = self.store.header();
        if header.state != State::Sealed {
            return Err(refused(self.path(), "is written, so there cannot be another upper over it")
                .hint("make a snapshot of it, and fork that"));
        }
        if !same(directory(path), directory(self.path())) {
            return Err(refused(path, format!("is not in the directory of {}", self.path().display()))
                .hint("the layers of a chain are in one directory"));
        }
        let parent = Some(Parent { uuid: header.uuid, name: file_name(self.path())? });
        let block_size = u32::try_from(header.block_size).unwrap_or(512);
        let Header { size, alone, ref base, .. } = header;
        if self.is_putting() {
            let what = "is being put into its base, so there cannot be another upper over it";
            return Err(refused(self.path(), what).hint("wait until that has ended, or do it again"));
        }
        Self::create(path, &Shape { size, block_size, base, parent, alone, ..Shape::default() })
    }

    /// Whether nobody writes to it ever again.
    pub fn is_sealed(&self) -> bool {
        self.store.header().state == State::Sealed
    }

    /// Whether that path leads to its file.
    pub fn is_at(&self, path: &Path) -> bool {
        match (fs::metadata(path), self.file.metadata()) {
            (Ok(found), Ok(own)) => (found.dev(), found.ino()) == (own.dev(), own.ino()),
            _ => false,
        }
    }
}

/// The new upper of a snapshot, which has the snapshot's name until it [takes the place](Self::take_place_of) of the old one.
/// Without that it is removed.
pub struct Prepared {
    new: Arc<Upper>,
    below: PathBuf,
    done: bool,
}

impl Prepared {
    /// The new upper.
    pub fn upper(&self) -> &Upper {
        &self.new
    }

    /// The second part of a snapshot: both exchange their names.
    pub fn take_place_of(mut self, old: &Upper) -> Result<Arc<Upper>> {
        let path = old.path();
        exchange(&self.below, path)
            .or_else(|error| replace(&error, &self.below, path))
            .map_err(|error| failed(&self.below, &error))?;
        let _ = old.renamed.set(self.below.clone()); // it was never renamed before, or would be sealed
        self.done = true;
        Ok(self.new.clone())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Not the old one, whose name it may be after a failure.
        if !self.done && self.new.is_at(&self.below) {
            let _ = fs::remove_file(&self.below);
        }
    }
}

fn failed(below: &Path, error: &io::Error) -> Error {
    Error::system(format!("cannot make the snapshot {}", below.display()), error).kind(ErrorKind::Backend)
}

/// No snapshot can have that name.
pub fn no_name(name: &str) -> Error {
    Error::invalid(format!("{name:?} is no name of a snapshot"))
        .hint("it becomes a part of a file's name: use letters, digits, '-', '_' and '.'")
}

/// Whether a snapshot can have that name.
fn is_name(name: &str) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    !name.is_empty() && name.chars().all(fits)
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.filter(|name| name.len() <= MOST_NAME).map(str::to_owned).ok_or_else(|| {
        refused(path, "has a name that cannot be recorded").hint("use a short name without strange letters")
    })
}

/// Whether a snapshot that did not end has left that file: a second name of the upper, or the new upper, which says that it
/// is over a file of its own name.
fn left_over(below: &Path, path: &Path, parent: &Parent) -> bool {
    same(below, path)
        || read(below, false, true).is_ok_and(|(_, header)| header.parent.as_ref() == Some(parent))
}

/// The same as an exchange where the file system has none: the old file gets its second name first. If that ends half-way,
/// `path` still leads to it.
fn replace(error: &io::Error, below: &Path, path: &Path) -> io::Result<()> {
    if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) {
        return Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)));
    }
    let new: PathBuf = with_suffix(below, ".new");
    fs::rename(below, &new)?;
    fs::hard_link(path, below)?;
    fs::rename(&new, path)?;
    sync_parent(path)
}
