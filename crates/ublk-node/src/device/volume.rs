//! Disks that an object store has.

use super::Device;
use crate::kinds::Contents;
use crate::task::promise;
use crate::volume::{ServedVolume, StoredVolume, VolumeSnapshot};
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use ublk_core::error::{Error, ErrorKind};

#[napi]
impl Device {
    /// How it stands with the disk's volume in an object store; `null` if it has none.
    #[napi]
    pub fn volume(&self) -> Option<StoredVolume> {
        self.contents.volume.get().and_then(|volume| volume.standing())
    }

    /// The snapshots of the disk's volume, the oldest first.
    #[napi(ts_return_type = "Promise<VolumeSnapshot[]>")]
    pub fn snapshots<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let contents = self.contents.clone();
        promise(env, move || served(&contents)?.snapshots(), |_, all: Vec<VolumeSnapshot>| Ok(all))
    }

    /// Removes one, unless it has clones.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn remove_snapshot<'env>(&self, env: &'env Env, name: String) -> Result<Object<'env>> {
        let contents = self.contents.clone();
        promise(env, move || served(&contents)?.remove_snapshot(&name), |_, ()| Ok(()))
    }
}

fn served(contents: &Contents) -> ublk_core::Result<&dyn ServedVolume> {
    let none = || {
        Error::new(ErrorKind::Unsupported, "this disk has no list of snapshots")
            .hint("a disk in an object store has one; those of an overlay are files")
    };
    contents.volume.get().map(|volume| &**volume).ok_or_else(none)
}
