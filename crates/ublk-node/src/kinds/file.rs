//! A disk in a regular file or on a block device.

use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, File};
use ublk_core::claim::Role;
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "file",
    below: Below::Anything,
    usual: Some(("file", File::COPY_MODES)),
    read: read::<Options>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    path: String,
    /// Bypass the page cache. Default: no.
    direct: Option<bool>,
    /// Whether the file is claimed while it is served. Default: yes.
    exclusive: Option<bool>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let file = File::open(Path::new(&self.path), how.read_only, self.direct.unwrap_or(false))?;
        Ok(Arc::new(if self.exclusive.unwrap_or(true) { file } else { file.without_claim() }))
    }

    fn files(&self) -> Vec<(Role, String)> {
        vec![(Role::Disk, self.path.clone())]
    }
}
