//! Opens the backend of a device as JavaScript describes it.

use crate::hooks::{Call, Changes, Fetches, Wanted, callable};
use crate::kinds::{Contents, FileOfDisk, Opening, Stack, file_ids};
use crate::number::with_integers;
use napi::Result;
use napi::bindgen_prelude::Function;
use serde_json::Value;
use std::sync::Arc;
use ublk_core::Spec;
use ublk_core::backend::{Backend, Observed, Source};
use ublk_core::claim::{FileId, check_same};
use ublk_core::error::{Error as CoreError, Result as CoreResult};

/// What is needed to open a backend, on any thread.
pub struct OpeningBackend {
    backend: Value,
    options: Value,
    files: Option<Vec<FileOfDisk>>,
    fetches: Option<Arc<Fetches>>,
    changes: Option<Call<()>>,
}

/// An open backend, with what it calls.
pub struct Opened {
    /// The options of its device.
    pub wishes: Spec,
    pub backend: Arc<dyn Backend>,
    pub fetches: Option<Arc<Fetches>>,
    pub changes: Option<Arc<Changes>>,
    pub contents: Contents,
}

impl OpeningBackend {
    /// On the JavaScript thread. `options`: of the device; `files`: of an existing disk, others are refused.
    pub fn new(
        backend: Value,
        options: Value,
        files: Option<Vec<FileOfDisk>>,
        on_fetch: Option<&Function<'_, Wanted, ()>>,
        on_change: Option<&Function<'_, (), ()>>,
    ) -> Result<Self> {
        let fetches = on_fetch.map(callable).transpose()?.map(|call| Arc::new(Fetches::new(call)));
        let changes = on_change.map(callable).transpose()?;
        Ok(Self { backend, options, files, fetches, changes })
    }

    /// Opens it. `existing`: whether the disk exists already.
    pub fn open(self, existing: bool) -> CoreResult<Opened> {
        let Self { backend, options, files, fetches, changes } = self;
        let wishes = read(options)?;
        let stack = Stack::read(&backend)?;
        if existing {
            stack.check_present()?;
        }
        let contents = Contents::default();
        let opening = Opening {
            read_only: wishes.read_only,
            max_io: wishes.max_io,
            existing,
            recoverable: existing || wishes.recovery.is_some(),
            source: fetches.clone().map(|source| source as Arc<dyn Source>),
            contents: contents.clone(),
        };
        let mut backend = stack.open(&opening)?;
        if let Some(files) = &files {
            let found: Vec<_> = backend.places().iter().map(FileId::of).collect::<CoreResult<_>>()?;
            check_same(&found, &file_ids(files))?;
        }
        let changes = changes.map(|call| Arc::new(Changes::new(call, backend.properties().size)));
        if let Some(changes) = &changes {
            backend = observed(backend, changes.clone());
        }
        Ok(Opened { wishes, backend, fetches, changes, contents })
    }
}

fn observed(backend: Arc<dyn Backend>, changes: Arc<Changes>) -> Arc<dyn Backend> {
    Arc::new(Observed::new(backend, Arc::new(move |change| changes.add(change))))
}

/// Reads the options of a device.
fn read(json: Value) -> CoreResult<Spec> {
    serde_json::from_value(with_integers(json))
        .map_err(|error| CoreError::invalid(format!("the options are wrong: {error}")))
}
