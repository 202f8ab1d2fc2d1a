//! A disk in a qcow2 image.

use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ublk_core::backend::Backend;
use ublk_core::claim::Role;
use ublk_core::error::Result;
use ublk_formats::Qcow2;

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "qcow2",
    below: Below::Anything,
    usual: Some(("qcow2", Qcow2::COPY_MODES)),
    read: read::<Options>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    path: String,
    /// The files that may be opened as backing files, and the directories below which any may. Default: none.
    #[serde(default)]
    backing: Vec<PathBuf>,
    /// Whether the files are claimed while they are served. Default: yes.
    exclusive: Option<bool>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let options = ublk_formats::Options {
            read_only: how.read_only,
            backing: self.backing.clone(),
            through: how.recoverable,
            unclaimed: self.exclusive == Some(false),
        };
        Ok(Arc::new(Qcow2::open(Path::new(&self.path), &options)?))
    }

    fn files(&self) -> Vec<(Role, String)> {
        // If it cannot be opened, the reason is reported by who opens it.
        let path = Path::new(&self.path);
        let paths = Qcow2::paths(path, &self.backing).unwrap_or_else(|_| vec![path.to_owned()]);
        paths.into_iter().map(|path| (Role::Disk, path.to_string_lossy().into_owned())).collect()
    }
}
