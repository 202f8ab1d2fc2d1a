//! A live disk that nobody uses becomes another one: that takes the kernel far less time than to make a disk and to remove it.

use super::Device;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::registry;
use std::fs;

impl Device {
    /// Empties the upper of an overlay that nobody uses, and has `change` change what it is over. Its size stays. To its next
    /// users it is a new disk: the kernel forgets what it knows of it, and looks for partitions.
    ///
    /// Fails, and nothing has changed, if the disk is in use, or something was done to it that would stay: it does not have `size`
    /// bytes, has snapshots, or was made read-only.
    pub fn again(&self, size: u64, cancel: &Cancel, change: impl FnOnce()) -> Result<()> {
        let (_state, backend) = self.live_backend()?;
        let claimed = registry::claim_to_reset(self.id, cancel)?;
        let is_read_only =
            fs::read_to_string(format!("/sys/block/ublkb{}/ro", self.id)).is_ok_and(|ro| ro != "0\n");
        if backend.properties().size != size || backend.layers().len() != 1 || is_read_only {
            return Err(Error::new(ErrorKind::Unsupported, "the disk is not as it was when it was made")
                .device(self.id));
        }
        self.drop_buffers()?; // before its content changes, so that nothing is written back later
        change();
        backend.reset().map_err(|error| error.device(self.id))?;
        self.drop_buffers()?; // of what was read meanwhile
        drop(claimed);
        self.announce();
        Ok(())
    }
}
