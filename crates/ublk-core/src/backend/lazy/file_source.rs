//! A regular file or block device that a lazy disk is filled from.

use super::turns::Turns;
use super::{Fill, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::become_io_flusher;
use crate::number::to_usize;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, MSDOS_SUPER_MAGIC, fstatfs};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// How many parts are read at a time.
const READERS: usize = 2;
/// File systems that give a file another inode number whenever they are mounted: FAT, exFAT, and some in user space.
const PASSING_INODES: [FsType; 3] = [MSDOS_SUPER_MAGIC, FsType(0x2011_bab0), FUSE_SUPER_MAGIC];
/// A disk's size is a multiple of this.
const SECTOR: u64 = 512;

/// See the [module](self). Its threads end with it.
pub struct FileSource {
    todo: Arc<Turns<Fill>>,
    size: u64,
    identity: String,
}

impl FileSource {
    /// Opens it for reading.
    pub fn open(path: &Path) -> Result<Self> {
        let backend = crate::backend::File::open(path, true, false)?;
        let bytes = crate::backend::Backend::properties(&backend).size;
        let failed = |error: io::Error| {
            Error::system(format!("cannot open {}", path.display()), &error).kind(ErrorKind::Backend)
        };
        let file = File::open(path).map_err(failed)?;
        if bytes == 0 {
            return Err(Error::new(ErrorKind::Backend, format!("{} is empty", path.display())));
        }
        let version = Version::of(&file).map_err(failed)?;
        let full = std::path::absolute(path).map_err(failed)?;
        let inode = lasting_inode(&file).map_err(failed)?;
        let identity = format!("file {} {inode} {version:?} {bytes}", full.display());
        // The map has room for a name of this length.
        let identity = if identity.len() > 1024 { format!("file {:x}", hash(&identity)) } else { identity };
        let (todo, file) = (Arc::new(Turns::default()), Arc::new(file));
        // From here on, its readers end with it.
        let source = Self { todo, size: bytes.next_multiple_of(SECTOR), identity };
        for _ in 0..READERS {
            let (reader, file, path) = (Reader(source.todo.clone()), file.clone(), path.to_owned());
            std::thread::Builder::new()
                .name("ublk-source".into())
                .stack_size(256 << 10)
                .spawn(move || {
                    let _ = become_io_flusher(); // as the filler
                    serve(&reader.0, &file, &path, bytes, version);
                })
                .map_err(|error| Error::system("cannot start a thread that reads the source", &error))?;
        }
        Ok(source)
    }

    /// Bytes of a disk that holds all of it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What a cache's map calls it: another name means other contents.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

impl Source for FileSource {
    fn fetch(&self, fill: Fill) {
        let wanted = fill.is_wanted();
        self.todo.add(fill, !wanted); // if it has ended, the fill fails when it is dropped
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.todo.end();
    }
}

/// Ends the source if a reader panics: nobody would answer.
struct Reader(Arc<Turns<Fill>>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// When the file was changed last: seconds and nanoseconds. Of a block device nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version(i64, i64);

impl Version {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(if found.is_file() { Self(found.mtime(), found.mtime_nsec()) } else { Self(0, 0) })
    }
}

/// The file's inode number if it is the same after a reboot, or else 0. The number of its file system's device is not the
/// same on Btrfs, NFS, overlayfs, LVM and others. The inode of a block device is that of its node, which is made anew by
/// each boot.
fn lasting_inode(file: &File) -> io::Result<u64> {
    let found = file.metadata()?;
    let made_anew = PASSING_INODES.contains(&fstatfs(file)?.filesystem_type());
    Ok(if found.is_file() && !made_anew { found.ino() } else { 0 })
}

fn serve(todo: &Turns<Fill>, file: &File, path: &Path, bytes: u64, version: Version) {
    while let Some(fill) = todo.next() {
        match read(file, &fill, bytes, version) {
            Ok(data) => drop(fill.supply(data)), // of the length that was asked for
            Err(error) => {
                let (length, offset, path) = (fill.length(), fill.offset(), path.display());
                let why = match error.raw_os_error() {
                    Some(libc::ESTALE) => "the file has changed since the disk was created".into(),
                    _ => error.to_string(),
                };
                fill.report(format!("cannot read {length} bytes at {offset} of the source {path}: {why}"));
                fill.fail(error.raw_os_error().unwrap_or(libc::EIO));
            }
        }
    }
}

fn read(file: &File, fill: &Fill, bytes: u64, version: Version) -> io::Result<Vec<u8>> {
    let mut data = vec![0; to_usize(fill.length())];
    // It may end within a sector.
    let there = to_usize(bytes.saturating_sub(fill.offset()).min(fill.length()));
    file.read_exact_at(&mut data[..there], fill.offset())?;
    if Version::of(file)? != version {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    Ok(data)
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
