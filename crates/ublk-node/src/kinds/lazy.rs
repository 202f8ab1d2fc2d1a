//! A disk that is filled on demand, from JavaScript or from a file.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, File, FileSource, Identity, Lazy, Map, Memory, Source, Storage};
use ublk_core::claim::Role;
use ublk_core::error::{Error, Result};

/// See the [module](self).
pub const KIND: Kind = Kind { name: "lazy", below: Below::Overlay, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Of the disk. With a source: its size.
    size: Option<Bytes>,
    /// The file or block device that it is filled from; by default, JavaScript fills it.
    source: Option<String>,
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
    /// The most that the cache may take up. Default: as much as it needs.
    max: Option<Bytes>,
    /// Bytes a second that are fetched without being asked for; 0: as many as possible. Default: none.
    fill: Option<Bytes>,
}

impl Options {
    /// The path of the map of the cache.
    fn map(cache: &str) -> String {
        format!("{cache}.map")
    }
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let chunk = self.chunk.map_or(128 << 10, |chunk| chunk.0);
        Lazy::check_chunk(chunk)?;
        let (source, size, name): (Arc<dyn Source>, _, _) = match &self.source {
            Some(path) => {
                let source = FileSource::open(Path::new(path))?;
                let (size, name) = (source.size(), source.identity().to_owned());
                (Arc::new(source), size, name)
            }
            None => {
                let missing = |what| Error::invalid(format!("this backend needs a {what}"));
                let source = how.source.clone().ok_or_else(|| missing("source"))?;
                let size = self.size.ok_or_else(|| missing("size"))?.0;
                (source, size, self.identity.clone().unwrap_or_default())
            }
        };
        let identity = Identity { size, chunk, name: name.clone() };
        if let Some(max) = self.max {
            Lazy::check_bound(&identity, self.path.is_some(), max.0, how.max_io)?;
        }
        let (storage, map): (Arc<dyn Storage>, Map) = match &self.path {
            None if self.max.is_some() => {
                (Arc::new(Memory::new(size)?.in_small_pages()?), Map::volatile_bounded(size, chunk)?)
            }
            None => (Arc::new(Memory::new(size)?), Map::volatile(size, chunk)?),
            Some(path) => {
                let direct = self.direct.unwrap_or(false);
                let (storage, found) = File::open_or_create(Path::new(path), size, direct)?;
                if self.max.is_some() {
                    Lazy::check_bounded(&storage, chunk)?;
                }
                let storage = if self.exclusive.unwrap_or(true) { storage } else { storage.without_claim() };
                let map = Self::map(path);
                let open = if self.max.is_some() { Map::open_bounded } else { Map::open };
                (Arc::new(storage), open(Path::new(&map), &identity, found)?)
            }
        };
        let lazy = match self.max {
            Some(max) => Lazy::bounded(storage, map, source, max.0)?,
            None => Lazy::new(storage, map, source)?,
        };
        let lazy = lazy.named(name);
        let lazy = match self.fill {
            Some(rate) => lazy.filled((rate.0 > 0).then_some(rate.0)),
            None => lazy,
        };
        how.contents
            .lazy
            .set(lazy.handle())
            .map_err(|_| Error::invalid("more than one lazy disk is in a stack").hint("one is possible"))?;
        Ok(Arc::new(lazy))
    }

    fn files(&self) -> Vec<(Role, String)> {
        let files = |path: &String| [(Role::Disk, path.clone()), (Role::Map, Self::map(path))];
        self.path.iter().flat_map(files).collect()
    }
}
