//! The files of a chain as imago uses them, on the mapper's thread: every call blocks until it is done.

use super::order::Order;
use crate::read::read_or_zero;
use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An open file of a chain.
#[derive(Clone)]
pub struct Image(Arc<Inner>);

struct Inner {
    file: Arc<File>,
    index: usize,
    length: u64,
    helper: CommonStorageHelper,
    /// `None`: it is not written to.
    order: Option<Mutex<Order>>,
}

impl Image {
    /// The file with that index in its chain. `order`: if it is written to.
    pub fn new(file: Arc<File>, index: usize, length: u64, order: Option<Order>) -> Self {
        let (helper, order) = (CommonStorageHelper::default(), order.map(Mutex::new));
        Self(Arc::new(Inner { file, index, length, helper, order }))
    }

    /// Its index in the chain.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The order of its writes; `None`: it is not written to.
    pub fn order(&self) -> Option<MutexGuard<'_, Order>> {
        self.0.order.as_ref().map(|order| order.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn writing(&self) -> io::Result<MutexGuard<'_, Order>> {
        self.order().ok_or_else(|| io::Error::from_raw_os_error(libc::EROFS))
    }

    /// Reads; what is behind the end of the file is zero.
    pub fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<()> {
        read_or_zero(&self.0.file, data, offset)
    }

    /// Fills a range of the file with zeroes.
    pub fn zero_at(&self, offset: u64, length: u64) -> io::Result<()> {
        self.writing()?.zero(offset, length)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Image({})", self.0.index)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "file {} of the chain", self.0.index)
    }
}

impl Storage for Image {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.length)
    }

    async unsafe fn pure_readv(&self, parts: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        for mut part in parts.into_inner() {
            self.read_at(&mut part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    async unsafe fn pure_writev(&self, parts: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        let mut order = self.writing()?;
        for part in parts.into_inner() {
            order.write(offset, &part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    async unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero_at(offset, length)
    }

    async unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero_at(offset, length)
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        self.writing()?.sync()
    }

    async unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.0.helper
    }

    async fn resize(&self, _new_size: u64, _how: PreallocateMode) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
