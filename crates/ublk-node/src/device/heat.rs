//! Maps of a disk, for people.

use super::Device;
use crate::heat::{Heat, Shares};
use crate::number::whole;
use crate::task::{promise, raised};
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use ublk_core::backend::Handle;
use ublk_core::cells::check_cell;

#[napi]
impl Device {
    /// Counts where its disk of so many bytes is read and written, from now on. Its queues are traced meanwhile.
    #[napi]
    pub fn heat(&self, env: &Env, size: f64) -> Result<Heat> {
        let heat = whole("size", size)
            .and_then(|size| ublk_core::telemetry::Heat::watch(self.device.tracer(), size))
            .map_err(|error| raised(env, &error.device(self.device.id())))?;
        Ok(Heat(Some(heat)))
    }

    /// How much of each cell of a disk of so many bytes is fetched, and written over a base.
    #[napi(ts_return_type = "Promise<Shares>")]
    pub fn shares<'env>(&self, env: &'env Env, size: f64, cell: f64) -> Result<Object<'env>> {
        let (device, lazy) = (self.device.clone(), self.contents.lazy.clone());
        let work = move || {
            let (size, cell) = (whole::<u64>("size", size)?, whole("cell", cell)?);
            check_cell(size, cell)?;
            // One that is only a part of the disk has other cells.
            let whole_disk = |handle: &&Handle| handle.progress().is_some_and(|now| now.size == size);
            let fetched = lazy.get().filter(whole_disk).and_then(|handle| handle.shares(cell));
            Ok((fetched, device.written_shares(cell)?))
        };
        promise(env, work, |_, (fetched, layered)| {
            let (present, dirty) = fetched.map_or((None, None), |(present, dirty)| (Some(present), dirty));
            Ok(Shares {
                present: present.map(Into::into),
                dirty: dirty.map(Into::into),
                layered: layered.map(Into::into),
            })
        })
    }
}
