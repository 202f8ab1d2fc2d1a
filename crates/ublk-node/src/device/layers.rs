//! The layers of overlays.

use super::Device;
use crate::Cancel;
use crate::layers::{DiskLayer, FlattenProgress};
use crate::number::maybe;
use crate::task::{promise, raised};
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;

#[napi]
impl Device {
    /// Keeps the present content of a live disk under a name.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn snapshot<'env>(&self, env: &'env Env, name: String) -> Result<Object<'env>> {
        let device = self.device.clone();
        promise(env, move || device.snapshot(&name), |_, ()| Ok(()))
    }

    /// Throws away what was written to a live disk since its last snapshot.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn reset<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let device = self.device.clone();
        promise(env, move || device.reset(), |_, ()| Ok(()))
    }

    /// Copies to a live overlay's upper all that it lacks, at most `rate` bytes a second. Resolves when that is done.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn flatten<'env>(&self, env: &'env Env, rate: Option<f64>, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let work = move || device.flatten(maybe("rate", rate)?, &bound);
        promise(env, work, |_, ()| Ok(()))
    }

    /// How far that has come, while it is under way.
    #[napi]
    pub fn flattening(&self, env: &Env) -> Result<Option<FlattenProgress>> {
        let progress = self.device.flattening().map_err(|error| raised(env, &error))?;
        Ok(progress.map(FlattenProgress::from))
    }

    /// Puts into the file of a live overlay's base all that was written before, at most `rate` bytes a second. Resolves when
    /// that is done.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn commit<'env>(
        &self,
        env: &'env Env,
        rate: Option<f64>,
        force: bool,
        cancel: &Cancel,
    ) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let work = move || device.commit(maybe("rate", rate)?, force, &bound);
        promise(env, work, |_, ()| Ok(()))
    }

    /// How far that has come, while it is under way.
    #[napi]
    pub fn committing(&self, env: &Env) -> Result<Option<FlattenProgress>> {
        let progress = self.device.committing().map_err(|error| raised(env, &error))?;
        Ok(progress.map(FlattenProgress::from))
    }

    /// What was written over its base, the lowest layer first; none of a disk that is no overlay.
    #[napi]
    pub fn layers(&self, env: &Env) -> Result<Vec<DiskLayer>> {
        let layers = self.device.layers().map_err(|error| raised(env, &error))?;
        Ok(layers.into_iter().map(DiskLayer::from).collect())
    }
}
