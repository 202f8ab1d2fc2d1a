//! The backends that JavaScript can name.

use crate::number::maybe;
use napi_derive::napi;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{
    Backend, Discard, External, File, Identity, Lazy, Map, Memory, Null, Properties, SharedMemory, Source,
};
use ublk_core::claim::{FileId, Role, check_same};
use ublk_core::error::{Error as CoreError, Result as CoreResult};
use ublk_core::{ErrorKind, Pages};

/// How the pages of some memory are had. Default: each with its first use.
#[napi(object)]
pub struct PageWishes {
    /// All at once.
    pub prefault: Option<bool>,
    /// Huge ones, where the system has some.
    pub huge_pages: Option<bool>,
    /// All at once, and never swapped out.
    pub lock: Option<bool>,
}

/// As the engine says it.
pub fn pages(wishes: Option<&PageWishes>) -> Pages {
    wishes.map_or_else(Pages::default, |wishes| Pages {
        prefault: wishes.prefault.unwrap_or(false),
        huge: wishes.huge_pages.unwrap_or(false),
        lock: wishes.lock.unwrap_or(false),
    })
}

/// Where a disk's data lives.
#[napi(object)]
pub struct BackendSpec {
    /// Which one; `external`: whoever takes the seats that `start` hands out.
    #[napi(ts_type = "'memory' | 'null' | 'file' | 'lazy' | 'external'")]
    pub kind: String,
    /// Bytes; all but file.
    pub size: Option<f64>,
    /// File; memory: a file in memory that holds its bytes, else nobody can find them; lazy: where it keeps what it
    /// fetched, else in memory.
    pub path: Option<String>,
    /// Memory without a path: its pages.
    pub pages: Option<PageWishes>,
    /// File, lazy with a path: around the page cache.
    pub direct: Option<bool>,
    /// File, memory or lazy with a path: whether to claim the file while the device is served. Default: yes.
    pub exclusive: Option<bool>,
    /// Lazy: bytes that are fetched at a time: a power of two from 4 KiB to 16 MiB.
    pub chunk: Option<f64>,
    /// Lazy with a path: what it is filled with. Another one is not taken for the same disk.
    pub identity: Option<String>,
    /// External: bytes that the backend reads or writes at least. Default: 512.
    pub block_size: Option<f64>,
    /// External: whether completed writes may be lost until a flush.
    pub write_cache: Option<bool>,
    /// External: whether it discards.
    pub discard: Option<bool>,
    /// External: whether it writes zeroes.
    pub write_zeroes: Option<bool>,
}

/// Opens it. `source`: what a lazy one is filled from.
pub fn open(
    spec: &BackendSpec,
    read_only: bool,
    source: Option<Arc<dyn Source>>,
) -> CoreResult<Arc<dyn Backend>> {
    let size =
        || maybe::<u64>("size", spec.size)?.ok_or_else(|| CoreError::invalid("this backend needs a size"));
    let exclusive = spec.exclusive.unwrap_or(true);
    match spec.kind.as_str() {
        "memory" => match &spec.path {
            None => Ok(Arc::new(Memory::with(size()?, pages(spec.pages.as_ref()))?)),
            Some(path) => {
                let memory = SharedMemory::open(Path::new(path), size()?)?;
                Ok(Arc::new(if exclusive { memory } else { memory.without_claim() }))
            }
        },
        "null" => Ok(Arc::new(Null::new(size()?))),
        "file" => {
            let path = spec.path.as_deref().ok_or_else(|| CoreError::invalid("this backend needs a path"))?;
            let file = File::open(Path::new(path), read_only, spec.direct.unwrap_or(false))?;
            Ok(Arc::new(if exclusive { file } else { file.without_claim() }))
        }
        "lazy" => {
            let source = source.ok_or_else(|| CoreError::invalid("this backend needs a source"))?;
            Ok(Arc::new(lazy(spec, size()?, source)?))
        }
        "external" => Ok(Arc::new(External::new(external(spec, size()?)?))),
        other => Err(CoreError::invalid(format!("there is no backend {other:?}"))
            .hint("memory, null, file, lazy and external exist")),
    }
}

fn lazy(spec: &BackendSpec, size: u64, source: Arc<dyn Source>) -> CoreResult<Lazy> {
    let chunk = maybe("chunk", spec.chunk)?.unwrap_or(128 << 10);
    Lazy::check_chunk(chunk)?;
    let Some(path) = &spec.path else {
        return Lazy::new(Arc::new(Memory::new(size)?), Map::volatile(size, chunk)?, source);
    };
    let identity = Identity { size, chunk, name: spec.identity.clone().unwrap_or_default() };
    let map = map_of(path);
    let (storage, found) = File::open_or_create(Path::new(path), size, spec.direct.unwrap_or(false))?;
    let storage = if spec.exclusive.unwrap_or(true) { storage } else { storage.without_claim() };
    Lazy::new(Arc::new(storage), Map::open(Path::new(&map), &identity, found)?, source)
}

/// The path of the map of a lazy disk's cache.
fn map_of(cache: &str) -> String {
    format!("{cache}.map")
}

/// A file or block device that a disk was created from, as in its record.
#[napi(object)]
#[derive(Clone)]
pub struct FileOfDisk {
    /// Its role for the disk.
    #[napi(ts_type = "'disk' | 'map'")]
    pub role: String,
    /// Its path.
    pub path: String,
    /// Its identity.
    pub mark: String,
}

impl From<FileId> for FileOfDisk {
    fn from(FileId { role, path, mark }: FileId) -> Self {
        Self { role: role.name().into(), path, mark }
    }
}

/// Converts it for the engine; a role that this version does not know is not compared.
pub fn file_ids(files: &[FileOfDisk]) -> Vec<FileId> {
    let id = |FileOfDisk { role, path, mark }: &FileOfDisk| {
        Some(FileId { role: Role::of(role)?, path: path.clone(), mark: mark.clone() })
    };
    files.iter().filter_map(id).collect()
}

/// Checks that all files of an existing disk exist: creating one in its place would lose the data.
pub fn check_present(spec: &BackendSpec) -> CoreResult<()> {
    for (_, path) in paths(spec) {
        let found = std::fs::metadata(&path).map_err(|error| {
            CoreError::system(format!("cannot open {path}"), &error).kind(ErrorKind::Backend)
        })?;
        if found.is_file() && found.len() == 0 {
            return Err(CoreError::new(ErrorKind::Backend, format!("{path} is empty"))
                .hint("the disk was made from another file"));
        }
    }
    Ok(())
}

fn paths(spec: &BackendSpec) -> impl Iterator<Item = (Role, String)> {
    let map = spec.path.as_deref().filter(|_| spec.kind == "lazy").map(map_of);
    let disk = spec.path.clone().map(|path| (Role::Disk, path));
    disk.into_iter().chain(map.map(|path| (Role::Map, path)))
}

/// Checks by path whether a backend would open the files that the disk was created from.
pub fn check_paths(spec: &BackendSpec, recorded: &[FileOfDisk]) -> CoreResult<()> {
    let found: Vec<_> =
        paths(spec).map(|(role, path)| FileId::at(role, Path::new(&path))).collect::<CoreResult<_>>()?;
    check_same(&found, &file_ids(recorded))
}

fn external(spec: &BackendSpec, size: u64) -> CoreResult<Properties> {
    const MOST: u64 = 1 << 30;
    let limit = |able: Option<bool>| if able.unwrap_or(false) { MOST } else { 0 };
    let (max, max_write_zeroes) = (limit(spec.discard), limit(spec.write_zeroes));
    Ok(Properties {
        block_size: maybe("blockSize", spec.block_size)?.unwrap_or(512),
        write_cache: spec.write_cache.unwrap_or(false),
        discard: (max > 0 || max_write_zeroes > 0).then_some(Discard {
            granularity: 4096,
            alignment: 0,
            max,
            max_write_zeroes,
        }),
        ..Properties::new(size)
    })
}
