//! An overlay's layers, for JavaScript.

use crate::number::number;
use napi_derive::napi;
use ublk_core::backend::LayerInfo;

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

/// How far a flatten has come.
#[napi(object)]
pub struct FlattenProgress {
    /// Up to where the upper has all of the disk, in bytes.
    pub done: f64,
    /// Of the disk, in bytes.
    pub size: f64,
}

impl From<ublk_core::backend::FlattenProgress> for FlattenProgress {
    fn from(progress: ublk_core::backend::FlattenProgress) -> Self {
        Self { done: number(progress.done), size: number(progress.size) }
    }
}
