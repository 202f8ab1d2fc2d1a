//! A disk in memory of this process, or in a memory file that another process can open.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::Pages;
use ublk_core::backend::{Backend, Memory, MemoryFile};
use ublk_core::claim::Role;
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "memory",
    below: Below::Anything,
    usual: Some(("memory", Memory::COPY_MODES)),
    read: read::<Options>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    size: Bytes,
    /// A file in a memory file system.
    path: Option<String>,
    /// Without a path: how its pages are allocated.
    pages: Option<Pages>,
    /// With a path: whether the file is claimed while it is served. Default: yes.
    exclusive: Option<bool>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let Some(path) = &self.path else {
            return Ok(Arc::new(Memory::with(self.size.0, self.pages.unwrap_or_default())?));
        };
        let memory = MemoryFile::open(Path::new(path), self.size.0)?;
        let memory = if how.read_only { memory.for_reading() } else { memory };
        Ok(Arc::new(if self.exclusive.unwrap_or(true) { memory } else { memory.without_claim() }))
    }

    fn files(&self) -> Vec<(Role, String)> {
        self.path.iter().map(|path| (Role::Disk, path.clone())).collect()
    }
}
