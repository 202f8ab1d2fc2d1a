//! A disk in a regular file or on another block device, through the queue's own ring.

mod engine;
mod limits;
mod unit;
mod zeroes;

use super::new_file::NewFile;
use super::{Alignment, Backend, Discard, Engine, Found, Properties, Readable, Site, Slot, Storage};
use crate::claim::{self, Place, Role};
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::mapping::Mapping;
use crate::queue::CopyMode;
use engine::FileEngine;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An open file or block device.
pub struct File {
    /// Until a disk is served with it.
    new: NewFile,
    file: fs::File,
    path: PathBuf,
    writable: bool,
    claimed: bool,
    /// The same file, opened a second time, if its writes go through the page cache: the kernel reports a failed
    /// write-back once to each open file.
    witness: Option<fs::File>,
    direct: bool,
    size: AtomicU64,
    block_size: u32,
    alignment: Alignment,
    discard: Option<Discard>,
}

const DISCARD: Discard = Discard { granularity: 4096, alignment: 0, max: 1 << 30, max_write_zeroes: 1 << 30 };

/// The hint for a file that cannot be written to.
fn make_read_only() -> Hint {
    Hint::from("make the disk read-only").by(Remedy::ReadOnly)
}

/// Takes O_NONBLOCK off an open file: the ring would take it as the wish never to wait for the medium.
fn blocking(file: &fs::File, flags: i32) -> std::io::Result<()> {
    Ok(fcntl(file, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags))).map(drop)?)
}

impl File {
    /// How it can be given the data of requests, the best first.
    pub const COPY_MODES: &'static [CopyMode] = &[CopyMode::Zero, CopyMode::Copy];

    /// Opens `path`, with `direct` around the page cache. The device refuses a size that is no multiple of its
    /// block size.
    pub fn open(path: &Path, read_only: bool, direct: bool) -> Result<Self> {
        Self::open_with(OpenOptions::new().read(true).write(!read_only), path, read_only, direct, 0)
    }

    /// Opens a regular file of `size` bytes, or creates one with mode 600, which gets that length by
    /// [`begin`](Storage::begin). The second value says what was found.
    pub fn open_or_create(path: &Path, size: u64, direct: bool) -> Result<(Self, Found)> {
        let failed = |what: &'static str| {
            move |error| Error::system(format!("cannot {what} {}", path.display()), &error)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (_, new) = NewFile::open_or_create(&options, path)
            .map_err(|error| failed("make")(error).kind(ErrorKind::Backend))?;
        let mut file = Self::open_with(&mut options, path, false, direct, size)?;
        file.new = new;
        let holds = file.file.metadata().map_err(failed("use"))?;
        let found = file.properties().size;
        let new = holds.is_file() && found == 0;
        if new || found == size {
            if !direct {
                let again = fs::File::open(format!("/proc/self/fd/{}", file.file.as_raw_fd()));
                file.witness = Some(again.map_err(failed("use"))?);
            }
            file.size.store(size, Relaxed);
            let empty = holds.is_file() && holds.blocks() == 0;
            let rest = if empty { Found::Empty } else { Found::Used };
            return Ok((file, if new { Found::New } else { rest }));
        }
        Err(Error::new(
            ErrorKind::Backend,
            format!("{} has {found} bytes, not the disk's {size}", path.display()),
        )
        .hint("it may hold the data of another disk: use another file"))
    }

    /// An open regular file with blocks of 512 bytes, whose owner has locked it.
    pub(super) fn of(file: fs::File, path: &Path, read_only: bool) -> Result<Self> {
        let failed = |error: &std::io::Error| Error::system(format!("cannot use {}", path.display()), error);
        blocking(&file, 0).map_err(|error| failed(&error))?;
        let size = file.metadata().map_err(|error| failed(&error))?.len();
        let discard = (!read_only && can_punch(&file, size, false)).then_some(DISCARD);
        Ok(Self {
            new: NewFile::default(),
            file,
            witness: None,
            path: path.to_owned(),
            writable: !read_only,
            claimed: false,
            direct: false,
            size: AtomicU64::new(size),
            block_size: 512,
            alignment: Alignment::default(),
            discard,
        })
    }

    /// An engine for a queue that serves already, whose ring has the file in this slot.
    pub(super) fn engine_at(self: Arc<Self>, slot: Slot, depth: u16, durable: bool) -> Box<dyn Engine> {
        Box::new(FileEngine::new(self, slot, depth, durable))
    }

    /// The open file.
    pub(super) fn file(&self) -> &fs::File {
        &self.file
    }

    /// The same, without a claim on the file.
    #[must_use]
    pub fn without_claim(mut self) -> Self {
        self.claimed = false;
        self
    }

    /// `least`: the file is going to have at least this number of bytes.
    fn open_with(
        options: &mut OpenOptions,
        path: &Path,
        read_only: bool,
        direct: bool,
        least: u64,
    ) -> Result<Self> {
        let name = path.display();
        let flags = if direct { libc::O_DIRECT } else { 0 };
        // Without waiting for the other end of a pipe.
        let opened = options.custom_flags(flags | libc::O_NONBLOCK).open(path);
        let kind = match &opened {
            Ok(file) => file.metadata(),
            Err(_) => fs::metadata(path),
        };
        if let Ok(kind) = kind.map(|found| found.file_type())
            && !kind.is_file()
            && !kind.is_block_device()
        {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("{name} is neither a regular file nor a block device"),
            ));
        }
        let file = opened.map_err(|error| {
            let failed = Error::system(format!("cannot open {name}"), &error).kind(ErrorKind::Backend);
            match error.raw_os_error() {
                Some(libc::EINVAL) if direct => failed.hint("its filesystem has no direct I/O"),
                Some(libc::EACCES | libc::EPERM | libc::EROFS) if !read_only => failed.hint(make_read_only()),
                // A kernel without CONFIG_BLK_DEV_WRITE_MOUNTED.
                Some(libc::EBUSY) => failed.kind(ErrorKind::Busy).hint(claim::insist()),
                _ => failed,
            }
        })?;
        blocking(&file, flags).map_err(|error| Error::system(format!("cannot use {name}"), &error))?;
        let found = file.metadata().map_err(|error| Error::system(format!("cannot stat {name}"), &error))?;
        let kind = found.file_type();
        let told = limits::direct_alignment(&file);
        let (size, block_size) = if kind.is_block_device() {
            if !read_only && device_is_read_only(&file)? {
                return Err(
                    Error::new(ErrorKind::Backend, format!("{name} is read-only")).hint(make_read_only())
                );
            }
            (device_size(&file)?, device_block_size(&file)?)
        } else {
            (found.len(), if direct { told.offset } else { 512 })
        };
        let alignment = if direct { limits::of(&found, told.memory) } else { Alignment::default() };
        let discard = (!read_only && can_punch(&file, size.max(least), kind.is_block_device()))
            .then_some(Discard { granularity: DISCARD.granularity.max(block_size), ..DISCARD });
        Ok(Self {
            new: NewFile::default(),
            file,
            witness: None,
            path: path.to_owned(),
            writable: !read_only,
            claimed: true,
            direct,
            size: AtomicU64::new(size),
            block_size,
            alignment,
            discard,
        })
    }
}

impl Backend for File {
    fn properties(&self) -> Properties {
        Properties {
            size: self.size.load(Relaxed),
            block_size: self.block_size,
            write_cache: true,
            discard: self.discard,
            alignment: self.alignment,
            ..Properties::new(0)
        }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        Self::COPY_MODES.to_vec()
    }

    fn takes_scattered(&self) -> bool {
        true
    }

    fn plain_file(&self) -> Option<&fs::File> {
        Some(&self.file)
    }

    fn places(&self) -> Vec<Place<'_>> {
        let Self { file, path, writable, claimed, .. } = self;
        vec![Place { role: Role::Disk, path, file, writable: *writable, claimed: *claimed }]
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let slot = site.file(self.file.as_fd());
        Ok(Box::new(FileEngine::new(self, slot, site.depth(), site.durable())))
    }

    /// Resizes a regular file. A block device keeps its size, which has to suffice, and its data.
    fn resize(&self, from: u64, size: u64) -> Result<()> {
        let failed = |error| Error::system("cannot resize the disk's file", &error).kind(ErrorKind::Backend);
        let kind = self.file.metadata().map_err(failed)?.file_type();
        if kind.is_block_device() {
            let most = device_size(&self.file)?;
            if size > most {
                return Err(Error::new(
                    ErrorKind::Backend,
                    format!("the block device has only {most} bytes"),
                )
                .hint("enlarge it first"));
            }
        } else {
            set_length(&self.file, from, size).map_err(failed)?;
        }
        self.size.store(size, Relaxed);
        Ok(())
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.size.store(size, Relaxed);
        Ok(())
    }
}

impl Storage for File {
    fn begin(&self) -> Result<()> {
        let failed = |error| {
            Error::system(format!("cannot make {}", self.path.display()), &error).kind(ErrorKind::Backend)
        };
        let found = self.file.metadata().map_err(failed)?;
        let size = self.size.load(Relaxed);
        if found.is_file() && found.len() < size {
            self.file.set_len(size).map_err(failed)?;
        }
        self.new.keep();
        Ok(())
    }

    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.direct {
            return self.file.write_all_at(data, offset);
        }
        // Direct I/O wants its memory aligned.
        let aligned = Mapping::anonymous(data.len())?;
        // SAFETY: a fresh mapping of data.len() bytes, borrowed only here.
        let copy = unsafe {
            aligned.base().as_ptr().copy_from_nonoverlapping(data.as_ptr(), data.len());
            std::slice::from_raw_parts(aligned.base().as_ptr(), data.len())
        };
        self.file.write_all_at(copy, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        punch(&self.file, offset.cast_signed(), length.cast_signed())
    }

    fn unit(&self) -> u64 {
        unit::of(&self.file)
    }

    fn intact(&self) -> io::Result<()> {
        // Behind the end of any file: there is nothing to wait for, and a failure is reported for the whole file.
        const BEHIND: libc::off64_t = 1 << 62;
        let Some(witness) = &self.witness else { return Ok(()) };
        // SAFETY: plain numbers and an open descriptor.
        let told = unsafe {
            libc::sync_file_range(witness.as_raw_fd(), BEHIND, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
        };
        if told == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Readable for File {
    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
nix::ioctl_read_bad!(blksszget, 0x1268, libc::c_int);
nix::ioctl_read_bad!(blkroget, 0x125e, libc::c_int);

fn device_is_read_only(file: &fs::File) -> Result<bool> {
    let mut answer = 0;
    // SAFETY: the ioctl writes one int.
    unsafe { blkroget(file.as_raw_fd(), &raw mut answer) }
        .map_err(|errno| Error::system("cannot ask whether the block device is read-only", &errno.into()))?;
    Ok(answer != 0)
}

fn device_size(file: &fs::File) -> Result<u64> {
    let mut size = 0;
    // SAFETY: the ioctl writes one 64-bit number (its type says size_t), and that is what it gets.
    unsafe { blkgetsize64(file.as_raw_fd(), &raw mut size) }
        .map_err(|errno| Error::system("cannot ask the block device's size", &errno.into()))?;
    Ok(size as u64)
}

fn device_block_size(file: &fs::File) -> Result<u32> {
    let mut size = 0;
    // SAFETY: the ioctl writes one int.
    unsafe { blksszget(file.as_raw_fd(), &raw mut size) }
        .map_err(|errno| Error::system("cannot ask the block device's block size", &errno.into()))?;
    Ok(size.cast_unsigned())
}

/// Changes the length of the file of a disk of `from` bytes. The file may be longer than the disk; old data there must
/// not become visible.
pub(super) fn set_length(file: &fs::File, from: u64, to: u64) -> io::Result<()> {
    if to > from && file.metadata()?.len() > from {
        file.set_len(from)?;
    }
    file.set_len(to)
}

/// Whether holes can be punched: tried in another file of the file system, or behind the end of this one, where there is
/// nothing to lose, but which changes the time of its last change. Of a block device its queue tells; the kernel punches by write-zeroes there, never by discard. Where this is not so, neither
/// discard nor write-zeroes is advertised, and the kernel writes zeroes as data.
fn can_punch(file: &fs::File, size: u64, device: bool) -> bool {
    if device {
        return file.metadata().is_ok_and(|found| limits::write_zeroes(&found) > 0);
    }
    if let Some(other) = unit::nameless_beside(file) {
        return punch(&other, 0, 4096).is_ok();
    }
    let Ok(behind) = libc::off_t::try_from(size.next_multiple_of(4096)) else { return false };
    punch(file, behind, 4096).is_ok()
}

fn punch(file: &fs::File, offset: libc::off_t, length: libc::off_t) -> io::Result<()> {
    loop {
        // SAFETY: plain numbers and an open descriptor.
        if unsafe { libc::fallocate(file.as_raw_fd(), zeroes::PUNCH, offset, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}
