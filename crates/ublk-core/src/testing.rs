//! What only the tests of this workspace use. It may change at any time.

/// The driver's interface.
pub mod abi {
    pub use crate::abi::*;
}

/// A ring by hand.
pub mod ring {
    pub use crate::queue::ring::*;
}

/// The state machine of tags.
pub mod tags {
    pub use crate::queue::tags::*;
}

pub use crate::backend::testing::{Bench, MapFirst};
pub use crate::control::{Control, Target};
pub use crate::device::engine_loop::{EngineLoop, Owner};

use crate::backend::Properties;
use crate::error::Result;
use crate::spec::Spec;

/// A device in the driver's form: its description, and its parameters with requests of at most `max_io` bytes.
pub fn described(
    spec: &Spec,
    backend: &Properties,
    max_io: u32,
) -> Result<(abi::sys::ublksrv_ctrl_dev_info, abi::Params)> {
    let checked = spec.check(backend)?;
    Ok((checked.info(), checked.params(max_io)))
}
