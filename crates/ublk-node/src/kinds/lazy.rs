//! A disk that is filled on demand from JavaScript.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, File, Identity, Lazy, Map, Memory};
use ublk_core::claim::Role;
use ublk_core::error::{Error, Result};

/// See the [module](self).
pub const KIND: Kind = Kind { name: "lazy", below: false, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    size: Bytes,
    /// The file that keeps its data; without one it is in memory.
    path: Option<String>,
    /// With a path: bypass the page cache. Default: no.
    direct: Option<bool>,
    /// With a path: whether the file is claimed while it is served. Default: yes.
    exclusive: Option<bool>,
    /// How much is fetched at a time: a power of two from 4 KiB to 16 MiB. Default: 128 KiB.
    chunk: Option<Bytes>,
    /// With a path: what the disk is filled with. A cache of something else is refused.
    identity: Option<String>,
}

impl Options {
    /// The path of the map of the cache.
    fn map(cache: &str) -> String {
        format!("{cache}.map")
    }
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let source = how.source.clone().ok_or_else(|| Error::invalid("this backend needs a source"))?;
        let size = self.size.0;
        let chunk = self.chunk.map_or(128 << 10, |chunk| chunk.0);
        Lazy::check_chunk(chunk)?;
        let Some(path) = &self.path else {
            return Ok(Arc::new(Lazy::new(
                Arc::new(Memory::new(size)?),
                Map::volatile(size, chunk)?,
                source,
            )?));
        };
        let identity = Identity { size, chunk, name: self.identity.clone().unwrap_or_default() };
        let (storage, found) = File::open_or_create(Path::new(path), size, self.direct.unwrap_or(false))?;
        let storage = if self.exclusive.unwrap_or(true) { storage } else { storage.without_claim() };
        let map = Map::open(Path::new(&Self::map(path)), &identity, found)?;
        Ok(Arc::new(Lazy::new(Arc::new(storage), map, source)?))
    }

    fn files(&self) -> Vec<(Role, String)> {
        let files = |path: &String| [(Role::Disk, path.clone()), (Role::Map, Self::map(path))];
        self.path.iter().flat_map(files).collect()
    }
}
