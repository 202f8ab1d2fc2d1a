//! A new size for a disk that is in use.

use super::Device;
use super::state::State;
use crate::abi::sys;
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use std::cell::Cell;
use std::sync::PoisonError;

impl Device {
    /// Changes the disk's size in bytes, while it is in use. Data beyond a smaller size is lost.
    pub fn resize(&self, size: u64, bound: &Bound) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        if !matches!(*state, State::Live(_)) {
            return Err(self.not_live(&state));
        }
        self.stays()?;
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.check_size(size)?;
        if !self.flags.has(sys::UBLK_F_UPDATE_SIZE.into()) {
            return Err(Error::new(ErrorKind::Unsupported, "this kernel cannot resize a device")
                .hint("Linux 6.16 or newer can")
                .device(self.id));
        }
        let backend = self.backend()?;
        let before = checked.size();
        let told = Cell::new(before);
        let tell = |size| {
            self.control.update_size(self.target, size, bound)?;
            told.set(size);
            Ok(())
        };
        let resized = backend.resize_told(before, size, &tell);
        checked.resized(told.get());
        resized
    }
}
