//! The Node-API face of `ublk-core`: conversions and promises, no logic. Its JavaScript side is private to the
//! package; the public surface is written in TypeScript on top of it.

// A test build registers nothing with Node, so nothing is used there.
#![cfg_attr(test, allow(dead_code))]
// Numbers from JavaScript that do not fit are refused, not truncated. See `number`.
#![warn(clippy::cast_precision_loss)]

mod account;
mod changes;
mod device;
mod diff;
mod faults;
mod heat;
mod hooks;
mod kinds;
mod layers;
mod lazy;
mod lock;
mod notify;
mod number;
mod opening;
mod peer;
mod powercut;
mod queue;
mod registry;
mod remote;
mod task;
mod task_threads;
mod telemetry;
mod volume;
mod wire;

use napi_derive::napi;

/// Ends the waits it is given to.
#[napi]
pub struct Cancel(ublk_core::Cancel);

#[napi]
impl Cancel {
    /// A token that has not been used.
    #[napi(constructor)]
    #[allow(clippy::new_without_default)] // JavaScript has no Default
    pub fn new() -> Self {
        Self(ublk_core::Cancel::default())
    }

    /// Ends every wait that holds this token, now and later.
    #[napi]
    pub fn cancel(&self) {
        self.0.cancel();
    }
}
