//! A state after a power cut, of a disk of this process. It is only read.

use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use ublk_core::backend::{Backend, View};
use ublk_core::error::{Error, Result};

/// See the [module](self).
pub const KIND: Kind =
    Kind { name: "crash-state", below: Below::Overlay, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Its number in this process.
    number: u32,
}

#[derive(Default)]
struct Views {
    last: u32,
    all: HashMap<u32, Arc<View>>,
}

fn views() -> MutexGuard<'static, Views> {
    static VIEWS: LazyLock<Mutex<Views>> = LazyLock::new(Mutex::default);
    VIEWS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a state until it is [forgotten](forget). Its number is what JavaScript names it by.
pub fn keep(view: Arc<View>) -> u32 {
    let mut views = views();
    views.last = views.last.wrapping_add(1);
    let number = views.last;
    views.all.insert(number, view);
    number
}

/// Nobody makes a disk of it any more.
pub fn forget(number: u32) {
    views().all.remove(&number);
}

impl Plan for Options {
    fn open(&self, _: &Opening) -> Result<Arc<dyn Backend>> {
        let view = views().all.get(&self.number).cloned();
        let view = view.ok_or_else(|| {
            Error::invalid(format!("there is no state {} in this process", self.number))
                .hint("make the disk with the method disk() of the state")
        })?;
        view.check()?;
        Ok(view)
    }
}
