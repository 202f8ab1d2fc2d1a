//! Reads a log from a file or a block device, into the record of a disk that has recorded nothing yet. All of it is suspect: what
//! is wrong is told in one line, and how much memory it takes does not depend on what lengths the log claims.

use super::format::{Entry, HEADER, Superblock};
use crate::abi::SECTOR;
use crate::backend::Backend;
use crate::backend::recorder::log::{Change, Log};
use crate::backend::recorder::{Origin, Recorder, State};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// How much is read at once.
const PIECE: u64 = 1 << 20;

/// Where no size is given, a disk ends at a multiple of this.
const ROUND: u64 = 1 << 20;

/// The largest disk whose size the log alone says.
const LARGEST: u64 = 1 << 40;

/// The most that discards and writes of zeroes clear in all, in bytes: each of them costs time, and no space in the log.
const CLEARED: u64 = if cfg!(test) { 1 << 32 } else { 1 << 44 };

/// A log that can be replayed: all its entries make sense, and all their data is there.
pub struct RecordedLog {
    file: File,
    /// What errors call it.
    name: String,
    superblock: Superblock,
    /// The length of the file or device.
    length: u64,
    /// Behind the last byte of the disk that it changes.
    end: u64,
}

impl RecordedLog {
    /// Opens a file or a block device, and looks at all entries.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let failed =
            |error: io::Error| Error::system(format!("cannot read {name}"), &error).kind(ErrorKind::Backend);
        // Opening a pipe would wait for its writer.
        let mut file =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if kind.is_block_device() {
            // The kernel's target writes past the page cache, which may have older sectors.
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
                .map_err(|error| failed(error.into()))?;
        } else if !kind.is_file() {
            return Err(Error::invalid(format!("{name} is neither a file nor a block device")));
        }
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if length < HEADER as u64 {
            return Err(wrong(&name, "is no log of dm-log-writes"));
        }
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let superblock = Superblock::read(&bytes).map_err(|what| wrong(&name, what))?;
        let mut log = Self { file, name, superblock, length, end: 0 };
        let mut end = 0;
        log.each(|_, entry, _| {
            if let Entry::Change { sectors, .. } = entry {
                end = end.max(sectors.end * SECTOR);
            }
            Ok(())
        })?;
        log.end = end;
        Ok(log)
    }

    /// The size of a disk that has all that it changes, in bytes.
    pub fn disk_size(&self) -> Result<u64> {
        if self.end > LARGEST {
            let what = format!("{} changes bytes beyond {} of its disk", self.name, LARGEST);
            return Err(Error::invalid(what).hint("give the disk's size"));
        }
        Ok(self.end.max(1).next_multiple_of(ROUND))
    }

    /// Calls `each` with all entries, their numbers, and where their sector is.
    fn each(&self, mut each: impl FnMut(u64, Entry, u64) -> Result<()>) -> Result<()> {
        let Superblock { entries, sector_size } = self.superblock;
        let mut at = u64::from(sector_size);
        for number in 0..entries {
            let behind = at.checked_add(sector_size.into()).filter(|end| *end <= self.length);
            let behind = behind.ok_or_else(|| self.ends_early(number))?;
            let mut header = [0; HEADER];
            self.read(&mut header, at)?;
            let entry = Entry::read(&header, sector_size).map_err(|what| self.is_wrong(number, &what))?;
            let end = behind.checked_add(entry.data_length()).filter(|end| *end <= self.length);
            let end = end.ok_or_else(|| self.ends_early(number))?;
            each(number, entry, at)?;
            at = end;
        }
        Ok(())
    }

    /// The name of a mark whose sector is there.
    fn mark(&self, at: u64, length: usize) -> Result<String> {
        let mut name = vec![0; length];
        self.read(&mut name, at + HEADER as u64)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(into, at).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::system(format!("cannot read {}", self.name), error).kind(ErrorKind::Backend)
    }

    /// Where the next data of the file is within a range; `None`: the rest of the range is a hole.
    fn next_data(&self, range: Range<u64>) -> Option<u64> {
        let Ok(from) = i64::try_from(range.start) else { return Some(range.start) };
        match lseek(&self.file, from, Whence::SeekData) {
            Ok(at) => u64::try_from(at).ok().filter(|at| *at < range.end),
            Err(nix::Error::ENXIO) => None,
            // Neither does it tell, nor would that be needed.
            Err(_) => Some(range.start),
        }
    }

    fn is_wrong(&self, number: u64, what: &str) -> Error {
        wrong(&self.name, format!("is damaged: entry {number} {what}"))
    }

    fn ends_early(&self, number: u64) -> Error {
        let entries = self.superblock.entries;
        wrong(&self.name, format!("is truncated: it ends within entry {number} of {entries}"))
    }
}

fn wrong(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Backend, format!("{name} {what}"))
}

impl Recorder {
    /// Records what a log says as if it was done now: without overlaps, in the order of the entries. A flush that came with data
    /// was before it. The log's data is all zeroes yet. If this fails, the record is not usable.
    pub fn replay(&self, recorded: &RecordedLog) -> Result<()> {
        let block = u64::from(self.properties().block_size) / SECTOR;
        let (mut state, mut cleared) = (self.state(), 0);
        let State { log, newest, .. } = &mut *state;
        recorded.each(|number, entry, at| {
            let wrong = |what: &str| recorded.is_wrong(number, what);
            let (sectors, op, flags) = match entry {
                Entry::Mark { length } => {
                    log.mark(recorded.mark(at, length)?);
                    return Ok(());
                }
                Entry::Flush => {
                    flush(log);
                    return Ok(());
                }
                Entry::Change { ref sectors, op, flags, flushed } => {
                    if flushed {
                        flush(log);
                    }
                    (sectors.clone(), op, flags)
                }
            };
            if sectors.end > self.sectors() {
                return Err(Error::invalid(format!(
                    "entry {number} of {} is beyond the end of the disk, which has {} bytes",
                    recorded.name, self.size
                ))
                .hint("give the size of the disk that was recorded"));
            }
            if sectors.start % block != 0 || sectors.end % block != 0 {
                return Err(wrong(&format!("is not in blocks of {} bytes, as the disk is", block * SECTOR)));
            }
            let data = at + u64::from(recorded.superblock.sector_size);
            let place = self.take(recorded, data..data + entry.data_length())?;
            if place == Origin::ZERO {
                cleared += (sectors.end - sectors.start) * SECTOR;
                if cleared > CLEARED {
                    return Err(wrong(&format!("exceeds the {CLEARED} bytes that may be cleared in all")));
                }
            }
            let start = log.tick();
            let (offset, end) = (sectors.start * SECTOR, sectors.end * SECTOR);
            Log::apply(&log.write(&Change { offset, end, op, flags, place, start }), newest);
            Ok(())
        })
    }

    /// Copies data of a file to the log's data. Zeroes are not copied.
    fn take(&self, recorded: &RecordedLog, from: Range<u64>) -> Result<Origin> {
        let (mut place, mut at, mut buffer) = (None, from.start, Vec::new());
        while at < from.end
            && let Some(start) = recorded.next_data(at..from.end)
        {
            // Data begins at a block of the file, which need not be one of its sectors.
            let start = start.max(at) - (start.max(at) - from.start) % SECTOR;
            buffer.resize(to_usize(PIECE.min(from.end - start)), 0);
            recorded.read(&mut buffer, start)?;
            at = start + buffer.len() as u64;
            if buffer.iter().all(|byte| *byte == 0) {
                continue;
            }
            let failed = |error: io::Error| {
                Error::system("cannot write the log's data", &error).kind(ErrorKind::Backend)
            };
            let full = || {
                Error::new(
                    ErrorKind::Backend,
                    format!("{} has more data than may be recorded", recorded.name),
                )
                .hint("raise logMax")
            };
            let to = match place {
                Some(to) => to,
                None => self.allocate(from.end - from.start).ok_or_else(full)?,
            };
            place = Some(to);
            self.data.store(to + (start - from.start), &buffer).map_err(failed)?;
        }
        Ok(place.map_or(Origin::ZERO, Origin::data))
    }
}

fn flush(log: &mut Log) {
    let start = log.tick();
    log.flush(start);
}
