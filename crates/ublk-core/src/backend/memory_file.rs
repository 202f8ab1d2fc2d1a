//! A disk in a file of a memory file system, such as `/dev/shm`: other processes find its bytes when this one is gone.

use super::file::set_length;
use super::{Backend, Engine, Io, Piece, Properties, Site, Step, in_memory};
use crate::claim::{Place, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Op;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The hint for a file of another user.
const OWN: &str = "name a file that you own, or one that does not exist yet";

/// The disk's bytes are read and written by system calls, not through a mapping: of a full file system those tell,
/// where a mapping would end the process. None of them waits for anything but memory.
pub struct MemoryFile {
    file: File,
    path: PathBuf,
    claimed: bool,
    writable: bool,
    size: AtomicU64,
}

impl MemoryFile {
    /// A disk of `size` bytes in the file at `path`, which is created if it does not exist. An existing file keeps its
    /// bytes, and must have at least that size. It must belong to this user and be writable by no other: in a directory
    /// where every user may create files, another user may have planted one under that name.
    pub fn open(path: &Path, size: u64) -> Result<Self> {
        let name = path.display();
        if size == 0 {
            return Err(Error::invalid("the size is 0").hint("a disk has at least one block"));
        }
        let failed = |error| Error::system(format!("cannot use {name}"), &error).kind(ErrorKind::Backend);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP) => failed(error).hint("it is a symbolic link: name the file itself"),
                Some(libc::EACCES) => failed(error).hint(OWN),
                _ => failed(error),
            })?;
        let kind = fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
        let found = file.metadata().map_err(failed)?;
        if kind != TMPFS_MAGIC || !found.is_file() {
            return Err(Error::new(ErrorKind::Backend, format!("{name} is no file in memory"))
                .hint("use one in /dev/shm, or a file backend"));
        }
        // SAFETY: it always succeeds.
        let own = unsafe { libc::geteuid() };
        if found.uid() != own {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("{name} is another user's (uid {})", found.uid()),
            )
            .hint(OWN));
        }
        if found.mode() & 0o022 != 0 {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("{name} can be written to by other users (mode {:03o})", found.mode() & 0o777),
            )
            .hint(format!("chmod 600 {name}, or name a file that is not there yet")));
        }
        if found.len() == 0 {
            file.set_len(size).map_err(failed)?;
        } else if found.len() < size {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("{name} has {} bytes, not the disk's {size}", found.len()),
            )
            .hint("it may hold the data of another disk: use another file"));
        }
        Ok(Self { file, path: path.to_owned(), claimed: true, writable: true, size: AtomicU64::new(size) })
    }

    /// The same for a disk that is only read: others can read it at the same time.
    #[must_use]
    pub fn for_reading(mut self) -> Self {
        self.writable = false;
        self
    }

    /// The same, without a claim on the file.
    #[must_use]
    pub fn without_claim(mut self) -> Self {
        self.claimed = false;
        self
    }
}

impl Backend for MemoryFile {
    fn properties(&self) -> Properties {
        in_memory::properties(self.size.load(Relaxed))
    }

    fn places(&self) -> Vec<Place<'_>> {
        let Self { file, path, claimed, writable, .. } = self;
        vec![Place { role: Role::Disk, path, file, writable: *writable, claimed: *claimed }]
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(MemoryFileEngine { disk: self }))
    }

    fn resize(&self, from: u64, size: u64) -> Result<()> {
        set_length(&self.file, from, size).map_err(|error| {
            Error::system("cannot resize the disk's file", &error).kind(ErrorKind::Backend)
        })?;
        self.size.store(size, Relaxed);
        Ok(())
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.size.store(size, Relaxed);
        Ok(())
    }
}

struct MemoryFileEngine {
    disk: Arc<MemoryFile>,
}

impl Engine for MemoryFileEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if !piece.is_within(self.disk.size.load(Relaxed)) {
            return Step::Done(Err(libc::EIO));
        }
        let file = &self.disk.file;
        let done = match piece.op {
            Op::Read | Op::Write => io.move_file(file.as_fd(), &piece),
            Op::Discard | Op::WriteZeroes => {
                let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(file, punch, piece.offset.cast_signed(), piece.length.cast_signed())
                    .map_err(|errno| errno as i32)
            }
            Op::Flush | Op::Other(_) => Ok(()),
        };
        Step::Done(done.map(|()| piece.count()))
    }
}
