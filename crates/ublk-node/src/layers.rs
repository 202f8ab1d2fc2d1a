//! An overlay's layers, for JavaScript.

use crate::Cancel;
use crate::number::number;
use crate::task::promise;
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use std::path::Path;
use ublk_core::backend::{LayerInfo, Overlay};

/// A layer of an overlay.
#[napi(object)]
pub struct DiskLayer {
    /// Its file; `null` for one in memory.
    pub path: Option<String>,
    /// How many bytes the file takes up.
    pub bytes: f64,
    /// Whether it is written: the others stay as they are.
    pub written: bool,
}

impl From<LayerInfo> for DiskLayer {
    fn from(layer: LayerInfo) -> Self {
        let path = layer.path.map(|path| path.to_string_lossy().into_owned());
        Self { path, bytes: number(layer.bytes), written: layer.written }
    }
}

/// How far a flatten, or a commit, has come.
#[napi(object)]
pub struct FlattenProgress {
    /// Up to where the upper, or the base, has all of the disk, in bytes.
    pub done: f64,
    /// Of the disk, in bytes.
    pub size: f64,
}

impl From<ublk_core::backend::FlattenProgress> for FlattenProgress {
    fn from(progress: ublk_core::backend::FlattenProgress) -> Self {
        Self { done: number(progress.done), size: number(progress.size) }
    }
}

/// Whether an overlay with the upper at a path needs its base.
#[napi]
pub fn upper_needs_base(path: String) -> bool {
    // Whatever keeps it from being read is an error when it is opened.
    !matches!(Overlay::nothing_below(Path::new(&path)), Ok(Some(_)))
}

/// Puts what an upper has into the file of its base. Neither is served.
#[napi(ts_return_type = "Promise<void>")]
pub fn commit_overlay<'env>(
    env: &'env Env,
    upper: String,
    base: String,
    force: bool,
    cancel: &Cancel,
) -> Result<Object<'env>> {
    let cancel = cancel.0.clone();
    let work = move || Overlay::commit(Path::new(&upper), Path::new(&base), force, &|| cancel.is_cancelled());
    promise(env, work, |_, ()| Ok(()))
}
