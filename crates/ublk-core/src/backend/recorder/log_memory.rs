//! The data of a log in memory: a file without a name.
//!
//! A mapping would have to get each new page twice, from the system and into the mapping; a file gets it once, when the kernel
//! copies data there. It counts in no process's RSS, as it is mapped nowhere. When no memory is left, the kernel ends processes:
//! a write fails only where it does not overcommit (`vm.overcommit_memory` is 2). So [`LogMemory::new`]'s size has to be bounded.

use crate::backend::{
    Backend, Completion, CopyMode, Engine, Io, Key, PerCall, Piece, Properties, Readable, Site, Slot, Step,
    Storage,
};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Descriptor, Op};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// See the [module](self). Its engines only read: a [`Recorder`](super::Recorder) writes to its
/// [file](Storage::file_in_memory).
pub struct LogMemory {
    file: File,
    size: u64,
}

impl LogMemory {
    /// For at most `size` bytes. Only what is written takes up memory.
    pub fn new(size: u64) -> Result<Self> {
        let failed = |error| {
            Error::system(format!("cannot keep a log of {size} bytes in memory"), &error)
                .kind(ErrorKind::Backend)
                .hint("set a lower logMax, or keep the log in a file")
        };
        let file = nameless().map_err(failed)?;
        file.set_len(size).map_err(failed)?;
        Ok(Self { file, size })
    }
}

#[cfg(test)]
impl LogMemory {
    /// One whose file has so many bytes, and cannot grow.
    pub fn that_ends_at(length: u64, size: u64) -> Self {
        let log = Self { file: nameless().unwrap(), size };
        log.file.set_len(length).unwrap();
        fcntl(&log.file, FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_GROW)).unwrap();
        log
    }
}

/// A file in memory. It is not waited for, so the ring reads it at once, and not on another thread.
fn nameless() -> io::Result<File> {
    let make = |flags| {
        // SAFETY: a name that ends with zero, and flags.
        match unsafe { libc::memfd_create(c"ublk-log".as_ptr(), libc::MFD_CLOEXEC | flags) } {
            ..0 => Err(io::Error::last_os_error()),
            // SAFETY: a new descriptor that nobody else has.
            fd => Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) })),
        }
    };
    let file = match make(libc::MFD_NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => make(libc::MFD_ALLOW_SEALING), // before 6.3
        made => made,
    }?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(file)
}

impl Backend for LogMemory {
    fn properties(&self) -> Properties {
        Properties::new(self.size)
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        vec![CopyMode::Copy, CopyMode::User]
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new() // no other process has it
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let (file, progress) = (site.file(self.file.as_fd()), PerCall::new(site.depth()));
        Ok(Box::new(ReadingEngine { file, progress }))
    }
}

impl Storage for LogMemory {
    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn file_in_memory(&self) -> Option<&File> {
        Some(&self.file)
    }
}

impl Readable for LogMemory {
    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

/// A call waits for one operation at a time.
const KEY: Key = 0;

/// A read and how many bytes it has.
#[derive(Debug, Clone, Copy)]
struct Progress {
    piece: Piece,
    done: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { piece: Descriptor::new(Op::Read, 0, 0).piece(), done: 0 }
    }
}

struct ReadingEngine {
    file: Slot,
    progress: PerCall<Progress>,
}

impl Engine for ReadingEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.op != Op::Read {
            return Step::Done(Err(libc::EOPNOTSUPP));
        }
        *self.progress.of(io) = Progress { piece, done: 0 };
        io.read_file(self.file, &piece, KEY)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let Progress { piece, done } = self.progress.of(io);
        match completion.result {
            result if matches!(-result, libc::EINTR | libc::EAGAIN) => {}
            result if result < 0 => return Step::Done(Err(-result)),
            0 => return Step::Done(Err(libc::EIO)), // behind its end
            read => *done += u64::from(read.cast_unsigned()),
        }
        let (piece, rest) = (*piece, piece.rest(*done));
        if rest.length > 0 {
            return io.read_file(self.file, &rest, KEY);
        }
        Step::Done(io.move_buffer(&piece).map(|()| piece.count()))
    }
}
