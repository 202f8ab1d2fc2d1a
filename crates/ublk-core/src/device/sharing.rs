//! Memory that a device shares with its clients.

use super::{Device, State};
use crate::abi::sys;
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{ClientMemories, ClientMemory};
use std::fs::File;
use std::sync::MutexGuard;

impl Device {
    /// Shares a file in memory with the disk's clients: if they read or write the disk with direct I/O (`O_DIRECT`) to or from
    /// a mapping of it, the driver does not copy the data. Its pages stay in memory until it is [unshared](Self::unshare) or
    /// the device is deleted. Returns the number of the memory.
    ///
    /// Only for a live device created with [`Spec::shared_memory`](crate::Spec::shared_memory) (7.1). Waits until no request
    /// is in flight.
    pub fn share(&self, file: File, bound: &Bound) -> Result<u16> {
        let _state = self.sharing()?;
        let memory = ClientMemory::of(file)?;
        self.shared.add(memory, |mapping| self.control.register_memory(self.target, mapping, bound))
    }

    /// Stops sharing the memory: its clients' data is copied again. Waits until no request is in flight.
    pub fn unshare(&self, number: u16, bound: &Bound) -> Result<()> {
        let _state = self.sharing()?;
        if self.shared.get(number).is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("the device shares no memory {number}"))
                .device(self.id));
        }
        self.control.unregister_memory(self.target, number, bound)?;
        self.shared.remove(number);
        Ok(())
    }

    /// What it shares, by number.
    pub fn shared(&self) -> &ClientMemories {
        &self.shared
    }

    /// Keeps the device as it is while its shared memory changes.
    fn sharing(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        self.look(&mut state)?;
        if !matches!(*state, State::Live(_)) {
            return Err(self.not_live(&state));
        }
        if self.flags.has(sys::UBLK_F_SHMEM_ZC.into()) {
            return Ok(state);
        }
        Err(Error::new(ErrorKind::Unsupported, "the device cannot share memory")
            .hint("make it so that it can; Linux 7.1 or newer has it")
            .device(self.id))
    }
}
