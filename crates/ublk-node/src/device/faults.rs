//! Disks with faults.

use super::Device;
use crate::faults::FaultTallies;
use crate::kinds::read_rules;
use crate::number::{number, whole};
use crate::task::raised;
use napi::{Env, Result};
use napi_derive::napi;
use serde_json::Value;
use ublk_core::ErrorKind;
use ublk_core::backend::Faults;
use ublk_core::error::{Error as CoreError, Hint, Remedy, Result as CoreResult};

#[napi]
impl Device {
    /// Gives a disk with faults other rules: from now on it has these.
    #[napi]
    pub fn set_faults(&self, env: &Env, rules: Value, seed: f64) -> Result<()> {
        let set = || self.with_faults()?.set(read_rules(rules)?, whole("seed", seed)?);
        set().map_err(|error| raised(env, &error.device(self.device.id())))
    }

    /// What these have done so far; `null` of a disk that has none.
    #[napi]
    pub fn faults(&self) -> Option<FaultTallies> {
        self.contents.faults.get().map(|faults| FaultTallies::from(&**faults))
    }

    /// Lets its requests that hang go on. Returns how many there were.
    #[napi]
    pub fn thaw(&self, env: &Env) -> Result<f64> {
        let thawed = self.with_faults().map(|faults| number(faults.thaw() as u64));
        thawed.map_err(|error| raised(env, &error))
    }

    fn with_faults(&self) -> CoreResult<&Faults> {
        self.contents.faults.get().map(|faults| &**faults).ok_or_else(|| {
            CoreError::new(ErrorKind::Unsupported, "this disk was created without rules for faults")
                .hint(Hint::from("create it with rules, even with none").by(Remedy::Faults))
                .device(self.device.id())
        })
    }
}
