//! The kinds of backends that JavaScript can name. Each kind is one file; [`ALL`] is the only list of them.

mod bytes;
mod concat;
pub mod crash_state;
mod external;
mod faults;
mod file;
mod lazy;
mod memory;
mod mirror;
mod nbd;
mod null;
mod overlay;
mod plan;
mod powercut;
mod qcow2;
mod qemu;
mod s3;
mod slice;
mod stripe;
mod tracked;
mod unbound;

pub use faults::read_rules;
pub use plan::{Contents, FileOfDisk, Opening, Stack, file_ids};

use plan::Plan;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ublk_core::queue::CopyMode;

/// All of them.
pub static ALL: &[Kind] = &[
    memory::KIND,
    file::KIND,
    null::KIND,
    lazy::KIND,
    qcow2::KIND,
    nbd::KIND,
    qemu::KIND,
    s3::KIND,
    slice::KIND,
    concat::KIND,
    stripe::KIND,
    mirror::KIND,
    overlay::KIND,
    tracked::KIND,
    faults::KIND,
    powercut::KIND,
    crash_state::KIND,
    unbound::KIND,
    external::KIND,
];

/// What a backend can be below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// No other backend.
    Nothing,
    /// An overlay, as its base.
    Overlay,
    /// Any that is composed.
    Anything,
}

/// A kind of backends.
pub struct Kind {
    /// Its name in the field `kind`.
    pub name: &'static str,
    /// What can be made of it.
    pub below: Below,
    /// How disks of this kind can be given the data of requests, and the name of such disks in `usualChoices`; `None`
    /// if that depends on the disk.
    pub usual: Option<(&'static str, &'static [CopyMode])>,
    /// Reads the other fields of its JSON object.
    read: fn(Value) -> serde_json::Result<Box<dyn Plan>>,
}

/// [`Kind::read`] of a kind whose options are an `Options`.
fn read<Options: Plan + DeserializeOwned + 'static>(fields: Value) -> serde_json::Result<Box<dyn Plan>> {
    Ok(Box::new(serde_json::from_value::<Options>(fields)?))
}
