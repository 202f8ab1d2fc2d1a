//! A backend as JavaScript describes it, before it is opened.

use super::{ALL, Below, Kind};
use crate::volume::ServedVolume;
use napi_derive::napi;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use ublk_core::ErrorKind;
use ublk_core::backend::{Backend, Faults, Handle, NbdServers, Recorder, Source};
use ublk_core::claim::{FileId, Role, check_same};
use ublk_core::error::{Error, Result};

/// A description of a backend.
pub trait Plan: Send {
    /// Opens it.
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>>;

    /// The files and block devices that it would open, in the order of `Backend::places`.
    fn files(&self) -> Vec<(Role, String)> {
        Vec::new()
    }
}

/// How a backend is opened.
pub struct Opening {
    /// For a disk that refuses writes.
    pub read_only: bool,
    /// The most bytes of a request.
    pub max_io: u32,
    /// Whether the disk exists already, with clients.
    pub existing: bool,
    /// Whether the disk may outlive this process.
    pub recoverable: bool,
    /// What a lazy disk is filled from.
    pub source: Option<Arc<dyn Source>>,
    /// Gets what the disk has of these.
    pub contents: Contents,
}

/// What a disk may have among those that it consists of, for the calls that concern only that.
#[derive(Clone, Default)]
pub struct Contents {
    /// The lazy disk.
    pub lazy: Arc<OnceLock<Handle>>,
    /// The disk with faults.
    pub faults: Arc<OnceLock<Arc<Faults>>>,
    /// The disk that records.
    pub recorder: Arc<OnceLock<Weak<Recorder>>>,
    /// The NBD servers.
    pub nbd: Arc<NbdServers>,
    /// The volume in an object store.
    pub volume: Arc<OnceLock<Box<dyn ServedVolume>>>,
}

impl Opening {
    /// For a disk that is read only.
    pub fn reading(&self) -> Self {
        let Self { max_io, existing, recoverable, source, contents, .. } = self;
        Self {
            read_only: true,
            max_io: *max_io,
            existing: *existing,
            recoverable: *recoverable,
            source: source.clone(),
            contents: contents.clone(),
        }
    }
}

/// A backend and those below it.
pub struct Stack {
    kind: &'static Kind,
    plan: Box<dyn Plan>,
}

impl Stack {
    /// Reads its JSON: an object whose field `kind` says what the others mean.
    pub fn read(json: &Value) -> Result<Self> {
        let Value::Object(fields) = json else {
            return Err(Error::invalid("a backend has to be an object with a kind"));
        };
        let mut fields = fields.clone();
        let name = fields.remove("kind");
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
        let kind = ALL.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|kind| kind.name).collect();
            Error::invalid(format!("there is no backend {name:?}"))
                .hint(format!("there are {}", names.join(", ")))
        })?;
        let plan = (kind.read)(Value::Object(fields))
            .map_err(|error| Error::invalid(format!("the {name} backend is wrong: {error}")))?;
        Ok(Self { kind, plan })
    }

    /// Opens it.
    pub fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        self.plan.open(how)
    }

    /// As [`Plan::files`].
    pub fn files(&self) -> Vec<(Role, String)> {
        self.plan.files()
    }

    /// Checks that all files of an existing disk exist: creating one in its place would lose the data.
    pub fn check_present(&self) -> Result<()> {
        for (_, path) in self.files() {
            let found = std::fs::metadata(&path).map_err(|error| {
                Error::system(format!("cannot open {path}"), &error).kind(ErrorKind::Backend)
            })?;
            if found.is_file() && found.len() == 0 {
                return Err(Error::new(ErrorKind::Backend, format!("{path} is empty"))
                    .hint("the disk was made from another file"));
            }
        }
        Ok(())
    }

    /// Checks by path whether it would open the files that the disk was created from.
    pub fn check_files(&self, recorded: &[FileOfDisk]) -> Result<()> {
        let id = |(role, path): (Role, String)| FileId::at(role, Path::new(&path));
        let found: Vec<_> = self.files().into_iter().map(id).collect::<Result<_>>()?;
        check_same(&found, &file_ids(recorded))
    }
}

/// A backend below another.
impl<'de> Deserialize<'de> for Stack {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        below(deserializer, &[Below::Anything])
    }
}

/// The base of an overlay.
pub struct Base(pub Stack);

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        below(deserializer, &[Below::Anything, Below::Overlay]).map(Self)
    }
}

/// The disk of a layer that is over any other, where TypeScript has checked what is above.
pub struct Any(pub Stack);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        below(deserializer, &[Below::Anything, Below::Overlay, Below::Nothing]).map(Self)
    }
}

fn below<'de, D: Deserializer<'de>>(
    deserializer: D,
    possible: &[Below],
) -> std::result::Result<Stack, D::Error> {
    let stack =
        Stack::read(&Value::deserialize(deserializer)?).map_err(|error| D::Error::custom(error.message))?;
    if !possible.contains(&stack.kind.below) {
        let what = format!("a {} backend cannot be below another", stack.kind.name);
        let except =
            if stack.kind.below == Below::Overlay { ", except as the base of an overlay" } else { "" };
        return Err(D::Error::custom(format!("{what}{except}")));
    }
    Ok(stack)
}

/// A file or block device that a disk was created from, as in its record.
#[napi(object)]
#[derive(Clone)]
pub struct FileOfDisk {
    /// Its role for the disk.
    #[napi(ts_type = "'disk' | 'base' | 'upper' | 'map'")]
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
