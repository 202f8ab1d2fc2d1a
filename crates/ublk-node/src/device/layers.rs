//! The layers of overlays, and the sides of mirrors.

use super::Device;
use crate::Cancel;
use crate::layers::{DiskLayer, FlattenProgress};
use crate::number::{maybe, number};
use crate::task::{promise, raised};
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use ublk_core::backend::SideInfo;

/// A side of a mirror.
#[napi(object)]
pub struct MirrorSide {
    /// Its files, or what else it is.
    pub name: String,
    /// `current`: it has all of the disk; `filling`: it is getting what it lacks; `failed`: it is not used.
    #[napi(ts_type = "'current' | 'filling' | 'failed'")]
    pub state: String,
    /// How much it may lack, in bytes.
    pub missing: f64,
}

#[napi]
impl Device {
    /// Fills the sides of a live mirror that lack something, at most `rate` bytes a second. Resolves when that is done.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn resync<'env>(&self, env: &'env Env, rate: Option<f64>, cancel: &Cancel) -> Result<Object<'env>> {
        let (device, bound) = (self.device.clone(), self.bound(cancel));
        let work = move || device.resync(maybe("rate", rate)?, &bound);
        promise(env, work, |_, ()| Ok(()))
    }

    /// How far that has come, while it is under way.
    #[napi]
    pub fn resyncing(&self, env: &Env) -> Result<Option<FlattenProgress>> {
        let progress = self.device.resyncing().map_err(|error| raised(env, &error))?;
        Ok(progress.map(FlattenProgress::from))
    }

    /// The sides of a mirror, in their order; none of another disk.
    #[napi]
    pub fn sides(&self, env: &Env) -> Result<Vec<MirrorSide>> {
        let sides = self.device.sides().map_err(|error| raised(env, &error))?;
        let side = |side: SideInfo| {
            let state = match (side.current, side.filling) {
                (true, _) => "current",
                (_, true) => "filling",
                _ => "failed",
            };
            MirrorSide { name: side.name, state: state.into(), missing: number(side.missing) }
        };
        Ok(sides.into_iter().map(side).collect())
    }

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
