//! A disk over a base that stays as it is.

use super::bytes::Bytes;
use super::plan::{Base, Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, Overlay};
use ublk_core::claim::Role;
use ublk_core::error::{Error, Result};

/// See the [module](self).
pub const KIND: Kind = Kind { name: "overlay", below: Below::Anything, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    base: Base,
    /// The file with what was written; without one that is in memory.
    upper: Option<String>,
    /// The file of a snapshot, over which a new upper is made.
    snapshot: Option<String>,
    /// Default: that of the upper, or of the base.
    size: Option<Bytes>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let base = self.base.0.open(&how.reading())?;
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
        let base = self.base.0.files().into_iter().map(|(role, path)| (role.below_overlay(), path));
        base.chain(self.upper.iter().map(|path| (Role::Upper, path.clone()))).collect()
    }
}
