//! A disk over a base that stays as it is.

use super::bytes::Bytes;
use super::plan::{Base, Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, Overlay};
use ublk_core::claim::Role;
use ublk_core::error::{Error, ErrorKind, Result};

/// See the [module](self).
pub const KIND: Kind = Kind { name: "overlay", below: Below::Anything, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Without one the upper has to be of a disk that was flattened.
    base: Option<Base>,
    /// The file with what was written; without one that is in memory.
    upper: Option<String>,
    /// The file of a snapshot, over which a new upper is made.
    snapshot: Option<String>,
    /// Default: that of the upper, or of the base.
    size: Option<Bytes>,
}

impl Options {
    /// What takes the place of the base, if that is not needed.
    fn nothing_below(&self) -> Result<Option<Arc<dyn Backend>>> {
        let paths = [&self.upper, &self.snapshot].into_iter().flatten().map(Path::new);
        // An upper that exists is over the snapshot already.
        let found = paths.filter(|path| path.symlink_metadata().is_ok()).take(1);
        found.map(Overlay::nothing_below).next().unwrap_or(Ok(None))
    }

    fn base(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        match (self.nothing_below()?, &self.base, &self.upper) {
            (Some(nothing), ..) => Ok(nothing),
            (None, Some(base), _) => base.0.open(&how.reading()),
            (None, None, Some(upper)) if Path::new(upper).symlink_metadata().is_err() => {
                Err(Error::new(ErrorKind::Backend, format!("the upper {upper} does not exist"))
                    .hint("name the upper of a disk that was flattened: a new one needs a base"))
            }
            (None, None, Some(upper)) => {
                Err(Error::new(ErrorKind::Backend, format!("the upper {upper} needs its base"))
                    .hint("only the upper of a disk that was flattened can be used without one"))
            }
            (None, None, None) => Err(Error::invalid("an overlay has a base, or an upper in a file")),
        }
    }
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let base = self.base(how)?;
        let size = self.size.map(|size| size.0);
        if let (true, Some(path), Some(size)) = (how.existing && !how.read_only, &self.upper, size) {
            Overlay::end_resize(&*base, Path::new(path), size)?;
        }
        let overlay = match (&self.upper, &self.snapshot) {
            (None, None) => Overlay::in_memory(base, size)?,
            (None, Some(_)) => {
                return Err(Error::invalid("an overlay in memory cannot be over a snapshot")
                    .hint("give it an upper in a file"));
            }
            (Some(path), None) => Overlay::in_file(base, Path::new(path), size, how.read_only)?,
            (Some(path), Some(snapshot)) => {
                Overlay::over_snapshot(base, Path::new(snapshot), Path::new(path), size, how.read_only)?
            }
        };
        if how.existing {
            overlay.goes_on();
        }
        Ok(Arc::new(overlay))
    }

    fn files(&self) -> Vec<(Role, String)> {
        // Whatever keeps it from being read is an error when it is opened.
        let needed = self.base.as_ref().filter(|_| !matches!(self.nothing_below(), Ok(Some(_))));
        let base = needed.map_or_else(Vec::new, |base| base.0.files());
        let base = base.into_iter().map(|(role, path)| (role.below_overlay(), path));
        base.chain(self.upper.iter().map(|path| (Role::Upper, path.clone()))).collect()
    }
}
