//! A new size for a disk that is in use.

use super::Device;
use super::state::State;
use crate::abi::sys;
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use std::sync::PoisonError;

impl Device {
    /// Changes the disk's size in bytes, while it is in use. Data beyond a smaller size is lost.
    pub fn resize(&self, size: u64, bound: &Bound) -> Result<()> {
        let mut state = self.state();
        self.look(&mut state)?;
        if !matches!(*state, State::Live(_)) {
            return Err(self.not_live(&state));
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.check_size(size)?;
        if !self.flags.has(sys::UBLK_F_UPDATE_SIZE.into()) {
            return Err(Error::new(ErrorKind::Unsupported, "this kernel cannot resize a device")
                .hint("Linux 6.16 or newer can")
                .device(self.id));
        }
        let backend = self.backend()?;
        let before = checked.size();
        // The disk never has more than its backend.
        if size > before {
            backend.resize(before, size)?;
            self.control.update_size(self.target, size, bound).inspect_err(|_| {
                // Report the first failure.
                let _ = backend.resize(size, before);
            })?;
            checked.resized(size);
            Ok(())
        } else {
            self.control.update_size(self.target, size, bound)?;
            checked.resized(size);
            backend.resize(before, size).inspect_err(|_| {
                // The backend still has what lies behind the new end.
                if self.control.update_size(self.target, before, bound).is_ok() {
                    checked.resized(before);
                }
            })
        }
    }
}
