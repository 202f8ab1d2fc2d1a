//! Disks that get another backend while they are used.

use super::{Device, DeviceSpec, served};
use crate::Cancel;
use crate::hooks::Changes;
use crate::kinds::FileOfDisk;
use crate::layers::FlattenProgress;
use crate::number::maybe;
use crate::opening::{Opened, OpeningBackend};
use crate::task::{promise, raised};
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use ublk_core::backend::{Backend, Observed};

#[napi]
impl Device {
    /// Copies a live disk to another backend, at most `rate` bytes a second. When the target has all, resolves to the same device
    /// with that backend, for after `finishMove`; until that or `cancelMove` both have all. If it fails, nothing has changed.
    #[napi(ts_return_type = "Promise<Device>")]
    pub fn begin_move<'env>(
        &self,
        env: &'env Env,
        spec: DeviceSpec,
        rate: Option<f64>,
        cancel: &Cancel,
    ) -> Result<Object<'env>> {
        let (device, bound, timeout, home) =
            (self.device.clone(), self.bound(cancel), self.timeout, self.env);
        let (changes, moved) = (self.changes.clone(), Arc::new(AtomicBool::new(false)));
        let DeviceSpec { backend, options, .. } = spec;
        let opening = OpeningBackend::new(backend, options, None, None, None)?;
        let work = move || {
            let Opened { backend, contents, .. } = opening.open(false)?;
            let target = match &changes {
                Some(changes) => observed(backend, changes.clone(), moved.clone()),
                None => backend,
            };
            device.begin_move(target, maybe("rate", rate)?, &bound)?;
            Ok(Device { device, timeout, env: home, fetches: None, changes, contents, moved })
        };
        promise(env, work, |_, device| Ok(device))
    }

    /// Serves the disk with the target alone from now on.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn finish_move<'env>(&self, env: &'env Env, target: &Device) -> Result<Object<'env>> {
        let (device, moved, home) = (self.device.clone(), target.moved.clone(), self.env);
        let work = move || {
            device.finish_move()?;
            moved.store(true, SeqCst);
            served().insert((home, device.id()), (device.clone(), None));
            Ok(())
        };
        promise(env, work, |_, ()| Ok(()))
    }

    /// Ends a move whose target has all: the disk is as before.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn cancel_move<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let device = self.device.clone();
        promise(env, move || device.cancel_move(), |_, ()| Ok(()))
    }

    /// How far it has come, while it is under way.
    #[napi]
    pub fn moving(&self) -> Option<FlattenProgress> {
        self.device.moving().map(FlattenProgress::from)
    }

    /// The identity of the target's files, while it is under way.
    #[napi]
    pub fn target_files(&self, env: &Env) -> Result<Vec<FileOfDisk>> {
        let files = self.device.target_files().map_err(|error| raised(env, &error))?;
        Ok(files.into_iter().map(FileOfDisk::from).collect())
    }
}

/// Changes are told by the disk that it was until it has moved.
fn observed(backend: Arc<dyn Backend>, changes: Arc<Changes>, moved: Arc<AtomicBool>) -> Arc<dyn Backend> {
    let tell = move |change| {
        if moved.load(SeqCst) {
            changes.add(change);
        }
    };
    Arc::new(Observed::new(backend, Arc::new(tell)))
}
