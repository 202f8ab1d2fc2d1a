//! Memory that a device shares with its clients (`UBLK_F_SHMEM_ZC`, 7.1): if all pages of a request are in it, the request is
//! served in place, and the driver copies nothing.

use crate::error::{Error, ErrorKind, Result};
use crate::mapping::FileMapping;
use crate::number::to_usize;
use crate::report::Reporter;
use crate::request::ClientPlace;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A file in memory, mapped for a device. Its clients may change or truncate it at any time, so only the kernel
/// accesses it, which returns EFAULT for truncated pages.
pub struct ClientMemory {
    mapping: FileMapping,
    file: File,
    /// Whether the truncation was reported to the device's owner.
    told: AtomicBool,
}

impl ClientMemory {
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
        let mapping = FileMapping::new(&file, to_usize(length)).map_err(failed)?;
        check_copies(&mapping).map_err(|error| {
            failed(error)
                .hint("allow process_vm_readv and process_vm_writev, which a seccomp profile forbids here")
        })?;
        Ok(Self { mapping, file, told: AtomicBool::new(false) })
    }

    /// This process's mapping of it.
    pub fn mapping(&self) -> &FileMapping {
        &self.mapping
    }

    /// A line about its truncation, if it was truncated; only once.
    fn cut(&self) -> Option<String> {
        let (before, now) = (self.mapping.length() as u64, self.file.metadata().ok()?.len());
        if now >= before || self.told.swap(true, Ordering::Relaxed) {
            return None;
        }
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd())).unwrap_or_default();
        Some(format!(
            "the shared memory {} was truncated from {before} to {now} bytes: requests in the missing part fail",
            path.display()
        ))
    }
}

/// Whether this process may call process_vm_readv and process_vm_writev.
fn check_copies(mapping: &FileMapping) -> io::Result<()> {
    let mut byte = 0;
    // SAFETY: one byte, and none.
    unsafe {
        mapping.read(0, &raw mut byte, 1)?;
        mapping.write(0, &raw const byte, 0)
    }
}

/// What a device shares, by the driver's numbers.
#[derive(Default)]
pub struct ClientMemories {
    list: RwLock<Vec<Option<Arc<ClientMemory>>>>,
    /// Held while the driver may name memory already that is not in the list yet.
    arriving: Mutex<()>,
    reporter: Option<Reporter>,
}

impl ClientMemories {
    /// No memories yet. `reporter` gets reports of truncation.
    pub fn new(reporter: Reporter) -> Self {
        Self { reporter: Some(reporter), ..Self::default() }
    }

    /// Adds memory: `register` tells the driver of it, which has a number for it then.
    pub fn add(
        &self,
        memory: ClientMemory,
        register: impl FnOnce(&FileMapping) -> Result<u16>,
    ) -> Result<u16> {
        let _arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        let number = register(memory.mapping())?;
        self.set(number, Some(Arc::new(memory)));
        Ok(number)
    }

    /// Forgets memory that the driver has forgotten.
    pub fn remove(&self, number: u16) {
        self.set(number, None);
    }

    fn set(&self, number: u16, memory: Option<Arc<ClientMemory>>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(number);
        if list.len() <= at {
            list.resize(at + 1, None);
        }
        list[at] = memory;
    }

    /// The memory under a number.
    pub fn get(&self, number: u16) -> Option<Arc<ClientMemory>> {
        self.look(number).or_else(|| {
            drop(self.arriving.lock().unwrap_or_else(PoisonError::into_inner)); // just after it was registered
            self.look(number)
        })
    }

    /// Called when a request in a memory failed: reports a truncation, if that is the cause.
    pub fn failed(&self, number: u16) {
        if let (Some(reporter), Some(memory)) = (&self.reporter, self.look(number))
            && let Some(message) = memory.cut()
        {
            reporter.report(message);
        }
    }

    /// The memory that a place names, if `length` bytes are there.
    fn at(&self, place: ClientPlace, length: usize) -> Option<Arc<ClientMemory>> {
        let memory = self.get(place.memory)?;
        let end = (place.offset as usize).checked_add(length)?;
        (end <= memory.mapping.length()).then_some(memory)
    }

    fn look(&self, number: u16) -> Option<Arc<ClientMemory>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).get(usize::from(number)).cloned().flatten()
    }

    /// The address of `length` bytes at a place, if they are in bounds: see [`FileMapping::address`].
    pub fn address(&self, place: ClientPlace, length: usize) -> Option<*mut u8> {
        Some(self.at(place, length)?.mapping.address(place.offset as usize))
    }

    /// Copies from byte `from` of a place on; see [`FileMapping::read`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn read(
        &self,
        place: ClientPlace,
        from: usize,
        memory: *mut u8,
        length: usize,
    ) -> io::Result<()> {
        let shared = self.at(place, from + length).ok_or_else(unknown)?;
        // SAFETY: the caller's promise.
        unsafe { shared.mapping.read(place.offset as usize + from, memory, length) }
    }

    /// Where `length` bytes from byte `from` of a place on are in this process, if they are in bounds, and whether they are
    /// always there: see [`FileMapping::address`].
    pub fn part(&self, place: ClientPlace, from: usize, length: usize) -> io::Result<(*mut u8, bool)> {
        let shared = self.at(place, from + length).ok_or_else(unknown)?;
        Ok((shared.mapping.address(place.offset as usize + from), shared.mapping.is_sealed()))
    }
}

/// The driver names memory that is not shared.
fn unknown() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}
