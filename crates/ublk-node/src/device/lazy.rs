//! Disks that fetch their data when it is first read.

use super::Device;
use crate::Cancel;
use crate::lazy::LazyProgress;
use crate::number::whole;
use crate::task::{promise, raised};
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use ublk_core::ErrorKind;
use ublk_core::backend::Handle;
use ublk_core::error::Error as CoreError;

#[napi]
impl Device {
    /// Answers what a lazy disk wanted with its data, which no other thread may write to: in no `SharedArrayBuffer`. Refused if that is not as long as was asked for; the answer
    /// to what is wanted no more is ignored.
    #[napi]
    pub fn supply(&self, env: &Env, id: f64, data: &[u8]) -> Result<()> {
        let id = whole("id", id).map_err(|error| raised(env, &error))?;
        match self.fetches.as_ref().and_then(|fetches| fetches.take(id)) {
            Some(fill) => fill.supply(data.to_vec()).map_err(|error| raised(env, &error)),
            None => Ok(()),
        }
    }

    /// Answers it with an error number, positive. Whether it was still wanted.
    #[napi]
    pub fn fail_fetch(&self, env: &Env, id: f64, errno: f64) -> Result<bool> {
        let numbers = whole("id", id).and_then(|id| Ok((id, whole::<u16>("errno", errno)?)));
        let (id, errno) = numbers.map_err(|error| raised(env, &error))?;
        let fill = self.fetches.as_ref().and_then(|fetches| fetches.take(id));
        Ok(fill.map(|fill| fill.fail(errno.into())).is_some())
    }

    /// Fails what a lazy disk waits for.
    #[napi]
    pub fn fail_fetches(&self) {
        if let Some(fetches) = &self.fetches {
            fetches.fail_all();
        }
    }

    /// How much of a lazy disk is there; `null` of another one.
    #[napi]
    pub fn lazy_progress(&self) -> Option<LazyProgress> {
        self.contents.lazy.get().and_then(Handle::progress).map(LazyProgress::from)
    }

    /// Fetches what is missing of a range of a lazy disk. Resolves when all of it is there.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn prefetch<'env>(
        &self,
        env: &'env Env,
        offset: f64,
        length: f64,
        cancel: &Cancel,
    ) -> Result<Object<'env>> {
        let (lazy, bound) = (self.contents.lazy.clone(), self.bound(cancel));
        let work = move || {
            let lazy = lazy.get().ok_or_else(|| {
                CoreError::new(ErrorKind::Unsupported, "only a lazy disk can be filled in advance")
            })?;
            let range = (whole("offset", offset)?, whole("length", length)?);
            lazy.prefetch(range.0, range.1, &|| bound.cancel.is_cancelled())
        };
        promise(env, work, |_, ()| Ok(()))
    }
}
