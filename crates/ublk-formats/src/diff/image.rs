//! Writes a diff as a qcow2 image over a backing file, by imago: its clusters are what was changed, and what it lacks is read
//! from the backing file. Without one it holds all of the disk.

use super::{Aside, zero_runs};
use crate::qcow2::run_now;
use crate::read::read_or_zero;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Storage};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use ublk_core::backend::Sink;

/// What an image has below it.
#[derive(Debug, Clone)]
pub struct BackingFile {
    /// As it is written into the image: relative to the image's directory, if it is not absolute.
    pub name: String,
    /// `raw` or `qcow2`.
    pub format: String,
}

/// See the [module](self).
pub struct Qcow2Diff {
    file: Arc<File>,
    aside: Aside,
    backing: Option<BackingFile>,
    cluster: u64,
    image: Option<FormatAccess<Growing>>,
}

/// The clusters of all but very large disks: those that a diff counts in, so that nothing else is in the image.
const SMALL: u64 = 4096;
/// QEMU opens no image whose list of tables is longer, in bytes.
const LONGEST_LIST: u64 = 32 << 20;

impl Qcow2Diff {
    /// Into an empty file.
    pub fn new(file: File, aside: Aside, backing: Option<BackingFile>) -> Self {
        Self { file: Arc::new(file), aside, backing, cluster: SMALL, image: None }
    }

    /// All has been put.
    pub fn finish(self) -> io::Result<()> {
        match &self.image {
            Some(image) => run_now(image.flush()),
            None => Ok(()),
        }
    }
}

impl Sink for Qcow2Diff {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        // A table has the places of cluster / 8 clusters, and takes up 8 bytes in the list.
        while (size / self.cluster).div_ceil(self.cluster / 8) * 8 > LONGEST_LIST {
            self.cluster *= 2;
        }
        let file = Growing { file: self.file.clone(), helper: Arc::default() };
        let mut image = Qcow2::<Growing>::create_builder(file)
            .size(size)
            .cluster_size(usize::try_from(self.cluster).map_err(io::Error::other)?);
        if let Some(BackingFile { name, format }) = &self.backing {
            image = image.backing(name.clone(), format.clone());
        }
        let open = |file| Ok(Qcow2::<Growing>::builder(file).backing(None).write(true));
        let image = run_now(image.create_open(DenyImplicitOpenGate::default(), open))?;
        self.image = Some(FormatAccess::new(image));
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.cluster
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(image) = &self.image else { return Err(io::ErrorKind::InvalidInput.into()) };
        for (zero, range) in zero_runs(data, usize::try_from(self.cluster).map_err(io::Error::other)?) {
            let (at, length) = (offset + range.start as u64, range.len() as u64);
            match (zero, &self.backing) {
                (false, _) => run_now(image.write(&data[range], at))?,
                (true, Some(_)) => run_now(image.write_zeroes(at, length))?,
                (true, None) => {} // what an image without a backing file lacks is zero
            }
        }
        Ok(())
    }

    fn aside(&self) -> io::Result<File> {
        self.aside.file()
    }
}

/// A file that grows with what is written to it.
#[derive(Debug)]
struct Growing {
    file: Arc<File>,
    helper: Arc<CommonStorageHelper>,
}

impl fmt::Display for Growing {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("the diff")
    }
}

impl Growing {
    fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<()> {
        read_or_zero(&self.file, data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = self.size()?;
        if offset + length > end {
            self.file.set_len(offset + length)?; // zeroes from the end on
        }
        let zeroes = [0; 4096];
        let mut at = offset;
        while at < end.min(offset + length) {
            let part = (end.min(offset + length) - at).min(4096);
            self.file.write_all_at(&zeroes[..usize::try_from(part).unwrap_or(0)], at)?;
            at += part;
        }
        Ok(())
    }
}

impl Storage for Growing {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    async unsafe fn pure_readv(&self, parts: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        for mut part in parts.into_inner() {
            self.read_at(&mut part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    async unsafe fn pure_writev(&self, parts: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        for part in parts.into_inner() {
            self.file.write_all_at(&part, offset)?;
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
        self.file.sync_data()
    }

    async unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    async fn resize(&self, new_size: u64, _how: PreallocateMode) -> io::Result<()> {
        self.file.set_len(new_size)
    }
}
