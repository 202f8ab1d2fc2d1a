//! A disk in memory of this process, or in a memory file that another process can open.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Kind, read};
use napi_derive::napi;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::Pages;
use ublk_core::backend::{Backend, Memory, MemoryFile};
use ublk_core::claim::Role;
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind =
    Kind { name: "memory", below: true, usual: Some(("memory", Memory::COPY_MODES)), read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    size: Bytes,
    /// A file in a memory file system.
    path: Option<String>,
    /// Without a path: how its pages are allocated.
    pages: Option<PageWishes>,
    /// With a path: whether the file is claimed while it is served. Default: yes.
    exclusive: Option<bool>,
}

impl Plan for Options {
    fn open(&self, _how: &Opening) -> Result<Arc<dyn Backend>> {
        let Some(path) = &self.path else {
            return Ok(Arc::new(Memory::with(self.size.0, pages(self.pages.as_ref()))?));
        };
        let memory = MemoryFile::open(Path::new(path), self.size.0)?;
        Ok(Arc::new(if self.exclusive.unwrap_or(true) { memory } else { memory.without_claim() }))
    }

    fn files(&self) -> Vec<(Role, String)> {
        self.path.iter().map(|path| (Role::Disk, path.clone())).collect()
    }
}

/// How the pages of some memory are allocated. Default: each with its first use.
#[napi(object)]
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PageWishes {
    /// All at once.
    pub prefault: Option<bool>,
    /// Huge ones, where the system has some.
    pub huge_pages: Option<bool>,
    /// All at once, and never swapped out.
    pub lock: Option<bool>,
}

/// Converts them for the engine.
pub fn pages(wishes: Option<&PageWishes>) -> Pages {
    wishes.map_or_else(Pages::default, |wishes| Pages {
        prefault: wishes.prefault.unwrap_or(false),
        huge: wishes.huge_pages.unwrap_or(false),
        lock: wishes.lock.unwrap_or(false),
    })
}
