//! What was changed on a disk, and diffs of it.

use super::Device;
use crate::Cancel;
use crate::changes::{ChangedPart, DiskCheckpoint};
use crate::diff::{DiffWishes, write_diff};
use crate::number::whole;
use crate::task::promise;
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;

#[napi]
impl Device {
    /// Makes a checkpoint of a disk that records its changes.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn checkpoint<'env>(&self, env: &'env Env, name: String) -> Result<Object<'env>> {
        let device = self.device.clone();
        promise(env, move || device.with_changes(|changes| changes.checkpoint(&name)), |_, ()| Ok(()))
    }

    /// Its checkpoints, the oldest first.
    #[napi(ts_return_type = "Promise<DiskCheckpoint[]>")]
    pub fn checkpoints<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let device = self.device.clone();
        let work = move || {
            let checkpoints = device.with_changes(|changes| changes.checkpoints())?;
            Ok(checkpoints.into_iter().map(DiskCheckpoint::from).collect())
        };
        promise(env, work, |_, checkpoints: Vec<DiskCheckpoint>| Ok(checkpoints))
    }

    /// Removes one.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn remove_checkpoint<'env>(&self, env: &'env Env, name: String) -> Result<Object<'env>> {
        let device = self.device.clone();
        promise(env, move || device.with_changes(|changes| changes.remove_checkpoint(&name)), |_, ()| Ok(()))
    }

    /// What was changed since one, from the byte `from` on: at most `most` ranges.
    #[napi(ts_return_type = "Promise<ChangedPart>")]
    pub fn changed<'env>(&self, env: &'env Env, since: String, from: f64, most: u32) -> Result<Object<'env>> {
        let device = self.device.clone();
        let work = move || {
            let from = whole("from", from)?;
            device.with_changes(|changes| changes.changed(&since, from, most as usize)).map(ChangedPart::from)
        };
        promise(env, work, |_, part: ChangedPart| Ok(part))
    }

    /// Writes a diff of the disk.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn diff<'env>(&self, env: &'env Env, wishes: DiffWishes, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, cancel) = (self.device.clone(), cancel.0.clone());
        promise(env, move || write_diff(&device, &wishes, &cancel), |_, ()| Ok(()))
    }
}
