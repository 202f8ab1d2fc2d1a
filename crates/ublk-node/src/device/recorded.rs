//! Disks that record what is written to them, and those of their states.

use super::Device;
use crate::Cancel;
use crate::hooks::callable;
use crate::kinds::Contents;
use crate::powercut::{self, CrashBounds, CrashStates, ExportedLog, FoundState, StateView};
use crate::task::{promise, raised};
use napi::bindgen_prelude::{Function, Object};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi::{Env, Result};
use napi_derive::napi;
use std::path::Path;
use std::sync::{Arc, Weak};
use ublk_core::ErrorKind;
use ublk_core::backend::Recorder;
use ublk_core::error::{Error as CoreError, Result as CoreResult};

impl Device {
    fn recorder(&self) -> CoreResult<Arc<Recorder>> {
        let Some(recorder) = self.contents.recorder.get() else {
            return Err(CoreError::new(
                ErrorKind::Unsupported,
                "the disk does not record what is written to it",
            )
            .hint("make it of powercut()"));
        };
        recorder.upgrade().ok_or_else(|| {
            CoreError::new(ErrorKind::NotFound, "the device was deleted, and what it recorded with it")
                .hint("look at its states before it is deleted")
        })
    }
}

#[napi]
impl Device {
    /// Makes the disk of a state, over `view`, that of another state. It must not be in use. Resolves to the same device as another
    /// object.
    #[napi(ts_return_type = "Promise<Device>")]
    pub fn turn_into<'env>(
        &self,
        env: &'env Env,
        view: &StateView,
        state: &FoundState,
        cancel: &Cancel,
    ) -> Result<Object<'env>> {
        let (device, timeout, home) = (self.device.clone(), self.timeout, self.env);
        let (view, state, cancel) = (view.shared(), state.shared(), cancel.0.clone());
        let work = move || {
            powercut::turn_into(&device, &view, &state, &cancel)?;
            Ok(Device {
                device,
                timeout,
                env: home,
                fetches: None,
                changes: None,
                contents: Contents::default(),
                moved: Arc::default(),
            })
        };
        promise(env, work, |_, device| Ok(device))
    }

    /// Gives the present moment a name in the log of a disk that records.
    #[napi]
    pub fn mark(&self, env: &Env, name: String) -> Result<()> {
        self.recorder().map(|recorder| recorder.mark(&name)).map_err(|error| raised(env, &error))
    }

    /// Cuts the power.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn cut<'env>(&self, env: &'env Env, model: String, seed: f64) -> Result<Object<'env>> {
        let recorder = self.recorder();
        promise(env, move || powercut::cut(&*recorder?, &model, seed), |_, ()| Ok(()))
    }

    /// Cuts the power at an event: a flush or write that is counted from now on, or a mark.
    #[napi]
    pub fn cut_at(
        &self,
        env: &Env,
        flush: Option<f64>,
        write: Option<f64>,
        mark: Option<String>,
    ) -> Result<()> {
        let set = || {
            self.recorder()?.cut_at(powercut::trigger(flush, write, mark)?);
            Ok(())
        };
        set().map_err(|error| raised(env, &error))
    }

    /// Calls a function when there is something for `take_watched`, until the power is off.
    #[napi]
    pub fn watch(&self, env: &Env, call: Function<'_, (), ()>) -> Result<()> {
        let call = callable(&call)?;
        let tell = move || {
            let _ = call.call((), ThreadsafeFunctionCallMode::NonBlocking); // ending: nobody looks any more
        };
        let set = self.recorder().map(|recorder| recorder.watch(Box::new(tell)));
        set.map_err(|error| raised(env, &error))
    }

    /// The next requests that a disk which records has answered, as `take_changes` has them.
    #[napi]
    pub fn take_watched(&self) -> Vec<f64> {
        self.recorder().map_or_else(|_| Vec::new(), |recorder| powercut::watched(&recorder))
    }

    /// Switches the power off, unless it is.
    #[napi]
    pub fn switch_off(&self) {
        if let Ok(recorder) = self.recorder() {
            recorder.switch_off_now();
        }
    }

    /// Whether the power is off; `null` of a disk that does not record.
    #[napi(getter)]
    pub fn is_power_off(&self) -> Option<bool> {
        self.contents.recorder.get().and_then(Weak::upgrade).map(|recorder| recorder.is_off())
    }

    /// Switches the power on again.
    #[napi]
    pub fn restore(&self, env: &Env) -> Result<()> {
        let restored = self.recorder().and_then(|recorder| recorder.restore());
        restored.map_err(|error| raised(env, &error))
    }

    /// Writes what was recorded so far to a file, in the format of dm-log-writes.
    #[napi(ts_return_type = "Promise<ExportedLog>")]
    pub fn export_log<'env>(&self, env: &'env Env, path: String, cancel: &Cancel) -> Result<Object<'env>> {
        let (recorder, id, cancel) = (self.recorder(), self.device.id(), cancel.0.clone());
        let work = move || powercut::export(&*recorder?, id, Path::new(&path), &cancel);
        promise(env, work, |_, exported: ExportedLog| Ok(exported))
    }

    /// The states that a power cut may leave.
    #[napi]
    pub fn crash_states(&self, env: &Env, bounds: CrashBounds) -> Result<CrashStates> {
        let states = self.recorder().and_then(|recorder| powercut::states_of(&recorder, &bounds));
        let states = states.map_err(|error| raised(env, &error))?;
        states.told(env)?;
        Ok(states)
    }
}
