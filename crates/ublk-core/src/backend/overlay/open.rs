//! Opens an overlay whose upper is in a file, or creates the upper.

use super::layers::{FIRST, Written};
use super::nothing::Nothing;
use super::upper::{Shape, Upper};
use super::{Overlay, identity_of, which_file};
use crate::backend::new_file::NewFile;
use crate::backend::{Backend, Properties};
use crate::error::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

impl Overlay {
    /// A disk whose writes go to the upper in a file, which is created if it does not exist. Its size is by default that of
    /// the upper, or of the base for a new one. `read_only`: the upper exists, and is shared with others that only read it.
    pub fn in_file(base: Arc<dyn Backend>, path: &Path, size: Option<u64>, read_only: bool) -> Result<Self> {
        let (base, base_size) = match Self::nothing_below(path)? {
            Some(nothing) => (nothing, 0),
            None => (base.clone(), Self::check_base(&*base)?),
        };
        let (block_size, name, file) =
            (base.properties().block_size, identity_of(&*base)?, which_file(&*base)?);
        let shape = |size| Shape { size, block_size, base: &name, file, ..Shape::default() };
        let mut new = NewFile::default();
        let layers = if path.symlink_metadata().is_ok() {
            let size = size.map_or_else(|| Upper::size_at(path), Ok)?;
            Upper::open_chain(path, &shape(size), read_only)?
        } else if read_only {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("the upper {} does not exist", path.display()),
            )
            .hint("a read-only disk writes to no upper: leave it out, or name one that exists"));
        } else {
            let size = size.unwrap_or(base_size);
            if !size.is_multiple_of(block_size.into()) {
                return Err(Error::invalid(format!(
                    "the overlay's size {size} is not a multiple of the block size {block_size}"
                ))
                .hint("disks consist of whole blocks"));
            }
            let upper = Upper::create(path, &shape(size))?;
            new = upper.is_new()?;
            vec![upper]
        };
        let size = layers.last().map_or(base_size, Upper::size);
        let layers = layers.into_iter().map(|upper| Written::kept(Arc::new(upper))).collect::<Result<_>>()?;
        let overlay = Self { new, ..Self::of(base, base_size, name, layers, size) };
        overlay.find_present(FIRST)?;
        Ok(overlay)
    }

    /// What takes the place of a base below an upper that was flattened, or was made over one that was; `None` if it needs its
    /// base, or does not exist.
    pub fn nothing_below(path: &Path) -> Result<Option<Arc<dyn Backend>>> {
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let block_size = Upper::stands_alone_at(path)?;
        Ok(block_size.map(|block_size| Arc::new(Nothing { block_size }) as Arc<dyn Backend>))
    }

    /// A disk that begins with a snapshot of another one: its writes go to the upper at `path`, which is created over the file
    /// of the snapshot, in the same directory, if it does not exist.
    pub fn over_snapshot(
        base: Arc<dyn Backend>,
        snapshot: &Path,
        path: &Path,
        size: Option<u64>,
        read_only: bool,
    ) -> Result<Self> {
        let mut new = (path.symlink_metadata().is_err() && !read_only)
            .then(|| Self::fork(&*base, snapshot, path))
            .transpose()?;
        let mut overlay = Self::in_file(base, path, size, read_only)?;
        if let (Some(new), Some(kept)) = (new.take(), &overlay.layers.written().kept) {
            new.keep();
            overlay.new = kept.upper.is_new()?; // the one that is locked
        }
        let is_it = |layer: &Written| layer.kept.as_ref().is_some_and(|kept| kept.upper.is_at(snapshot));
        if overlay.layers.all().take(usize::from(overlay.layers.top() - FIRST)).any(is_it) {
            return Ok(overlay);
        }
        // Which one is not known any more if there were several: it was flattened or committed.
        let was_over_one = |layer: &Written| {
            layer
                .kept
                .as_ref()
                .is_some_and(|kept| kept.upper.parent().is_none() && kept.upper.was_over().is_some())
        };
        if overlay.layers.all().next().is_some_and(was_over_one) {
            return Ok(overlay);
        }
        let (path, snapshot) = (path.display(), snapshot.display());
        Err(Error::new(
            ErrorKind::Backend,
            format!("the upper {path} was not made over the snapshot {snapshot}"),
        )
        .hint("leave the snapshot out, or name an upper that does not exist yet"))
    }

    /// A disk that exists already, whose server was killed, is going to be served again with `size` bytes: ends a resize that
    /// was interrupted. The upper is never smaller than the disk meanwhile.
    pub fn end_resize(base: &dyn Backend, path: &Path, size: u64) -> Result<()> {
        let (block_size, name, found) =
            (base.properties().block_size, identity_of(base)?, Upper::size_at(path)?);
        if found <= size {
            return Ok(());
        }
        let file = which_file(base)?;
        let shape = Shape { size: found, block_size, base: &name, file, ..Shape::default() };
        Upper::open_chain(path, &shape, false)?.last().map_or(Ok(()), |upper| upper.resize(size))
    }

    /// It is served again for clients that were there before. If its last server has lost data, flushes fail.
    pub fn goes_on(&self) {
        self.layers.all().filter_map(|layer| layer.kept.as_ref()).for_each(|kept| kept.upper.goes_on());
    }

    /// Makes a new upper over a snapshot, for another disk with the same base.
    fn fork(base: &dyn Backend, snapshot: &Path, path: &Path) -> Result<NewFile> {
        let (block_size, name) = (base.properties().block_size, identity_of(base)?);
        let (size, file) = (Upper::size_at(snapshot)?, which_file(base)?);
        let shape = Shape { size, block_size, base: &name, file, ..Shape::default() };
        let layers = Upper::open_chain(snapshot, &shape, true).map_err(|error| match error.kind {
            ErrorKind::Busy => error.hint(
                "its disk may not have completed the snapshot: make the new disk over it later, when the disk's writes have ended",
            ),
            _ => error,
        })?;
        match layers.last() {
            // Not the open file that is locked until here.
            Some(layer) => layer.fork(path)?.is_new_for_another(),
            None => Ok(NewFile::default()),
        }
    }

    /// The size of a base, which has to consist of whole blocks.
    pub(super) fn check_base(base: &dyn Backend) -> Result<u64> {
        let Properties { size, block_size, .. } = base.properties();
        if size == 0 || !size.is_multiple_of(block_size.into()) {
            return Err(Error::invalid(format!(
                "the overlay's base has {size} bytes, which are no whole blocks of {block_size}"
            ))
            .hint("use an image that ends with a whole block, for instance a slice of this one"));
        }
        Ok(size)
    }
}
