//! Memory that a device shares with its clients (`UBLK_F_SHMEM_ZC`, 7.1): a request whose pages all lie in it is served
//! right there, and nothing of it is copied by the driver.

use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Where in the shared memory of its device a request's data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which memory: the driver's number for it.
    pub memory: u16,
    /// From which byte on.
    pub offset: u32,
}

/// A file in memory, mapped for a device.
pub struct Shared {
    mapping: Mapping,
    file: OwnedFd,
    id: u32,
}

impl Shared {
    /// The driver's limit (`UBLK_SHMEM_BUF_SIZE_MAX`): 4 GiB.
    pub const MOST: u64 = 1 << 32;

    /// Maps the whole of a file. Its pages are made, and stay as long as it is shared.
    pub fn of(file: File) -> Result<Self> {
        let failed = |error| Error::system("cannot share the memory", &error).kind(ErrorKind::Backend);
        let length = file.metadata().map_err(failed)?.len();
        if length == 0 || length > Self::MOST || !length.is_multiple_of(crate::abi::page_size() as u64) {
            return Err(Error::invalid(format!("shared memory of {length} bytes is not possible"))
                .hint("whole pages, up to 4 GiB, are"));
        }
        let mapping = Mapping::shared(&file, 0, length as usize).map_err(failed)?;
        static IDS: AtomicU32 = AtomicU32::new(1);
        Ok(Self { mapping, file: file.into(), id: IDS.fetch_add(1, Ordering::Relaxed) })
    }

    /// Its number in this process, never 0 and never another's: the driver's numbers are used again.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// This process's mapping of it.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Another mapping, for who has to have one of his own.
    pub fn map_again(&self) -> Result<Mapping> {
        Mapping::shared(self.file.as_fd(), 0, self.mapping.length())
            .map_err(|error| Error::system("cannot map the shared memory", &error))
    }
}

/// What a device shares, by the driver's numbers.
#[derive(Default)]
pub struct SharedMemories {
    list: RwLock<Vec<Option<Arc<Shared>>>>,
    /// Held while the driver may name memory already that is not in the list yet.
    arriving: Mutex<()>,
}

impl SharedMemories {
    /// Adds memory: `register` tells the driver of it, which has a number for it then.
    pub fn add(&self, memory: Shared, register: impl FnOnce(&Mapping) -> Result<u16>) -> Result<u16> {
        let _arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        let number = register(memory.mapping())?;
        self.set(number, Some(Arc::new(memory)));
        Ok(number)
    }

    /// Forgets memory that the driver has forgotten.
    pub fn remove(&self, number: u16) {
        self.set(number, None);
    }

    fn set(&self, number: u16, memory: Option<Arc<Shared>>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(number);
        if list.len() <= at {
            list.resize(at + 1, None);
        }
        list[at] = memory;
    }

    /// The memory under a number.
    pub fn get(&self, number: u16) -> Option<Arc<Shared>> {
        self.look(number).or_else(|| {
            drop(self.arriving.lock().unwrap_or_else(PoisonError::into_inner)); // just after it was registered
            self.look(number)
        })
    }

    /// The memory that has this number in the process.
    pub fn by_id(&self, id: u32) -> Option<Arc<Shared>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().flatten().find(|memory| memory.id == id).cloned()
    }

    /// The memory that a place names, if `length` bytes are there.
    pub fn at(&self, place: Place, length: usize) -> Option<Arc<Shared>> {
        let memory = self.get(place.memory)?;
        let end = (place.offset as usize).checked_add(length)?;
        (end <= memory.mapping.length()).then_some(memory)
    }

    fn look(&self, number: u16) -> Option<Arc<Shared>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).get(usize::from(number)).cloned().flatten()
    }

    /// The address of `length` bytes at a place, if they are there.
    pub fn address(&self, place: Place, length: usize) -> Option<*mut u8> {
        Some(self.at(place, length)?.mapping.at(place.offset as usize))
    }
}
