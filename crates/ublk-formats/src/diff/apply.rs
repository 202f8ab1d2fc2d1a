//! Puts a [stream](super) into a copy of the base that it was made over.

use super::{DATA, END, HEAD, HEADER, HEADER_SUM, MAGIC, MOST, SUM, VERSION, ZEROES, crc32c, zero_runs};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use ublk_core::backend::{Place, Role};
use ublk_core::claim::Claims;
use ublk_core::error::{Error, ErrorKind, Result};

/// What was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many extents the diff has.
    pub extents: u64,
    /// Bytes that they cover.
    pub bytes: u64,
}

/// Puts the diff at `diff`, a [stream](super), into the file or block device at `base`. All of the diff is checked before
/// anything is changed. If it is interrupted, or repeated, applying it again gives the same.
pub fn apply(diff: &Path, base: &Path, cancelled: &dyn Fn() -> bool) -> Result<Applied> {
    let stream = open_diff(diff)?;
    let mut from = Stream::open(stream, diff)?;
    from.all(cancelled, &mut |_, _| Ok(()))?;
    let to = Target::open(base, from.size)?;
    let mut again = Stream::open(from.input.into_inner(), diff)?;
    again.changing = true;
    let applied = again.all(cancelled, &mut |extent, data| to.put(extent.offset, extent.length, data));
    to.finish(applied)
}

/// Puts ranges of the sparse file at `diff` of a disk of `size` bytes into the file or block device at `base`.
pub fn apply_ranges(
    diff: &Path,
    size: u64,
    ranges: &[Range<u64>],
    base: &Path,
    cancelled: &dyn Fn() -> bool,
) -> Result<Applied> {
    let stream = open_diff(diff)?;
    let length = stream.metadata().map_err(|error| cannot("read", diff, &error))?.len();
    if length != size || ranges.iter().any(|range| range.start > range.end || range.end > size) {
        let what = format!("{} and its list of ranges do not belong together", diff.display());
        return Err(Error::new(ErrorKind::Backend, what).hint("nothing was changed: copy both again"));
    }
    let to = Target::open(base, size)?;
    let mut data = vec![0; MOST];
    let mut put = |range: &Range<u64>| {
        let mut at = range.start;
        while at < range.end {
            if cancelled() {
                return Err(interrupted(PART));
            }
            let part = usize::try_from(range.end - at).unwrap_or(MOST).min(MOST);
            stream
                .read_exact_at(&mut data[..part], at)
                .map_err(|error| cannot("read", diff, &error).hint(PART))?;
            for (zero, run) in zero_runs(&data[..part], 4096) {
                let (offset, length) = (at + run.start as u64, run.len() as u64);
                to.put(offset, length, if zero { &[] } else { &data[run] })?;
            }
            at += part as u64;
        }
        Ok(range.end - range.start)
    };
    let bytes = ranges.iter().try_fold(0, |sum, range| Ok(sum + put(range)?));
    to.finish(bytes.map(|bytes| Applied { extents: ranges.len() as u64, bytes }))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::system(format!("cannot {what} {}", path.display()), error).kind(ErrorKind::Backend)
}

/// Hints for failures after something was changed, and before.
const PART: &str = "the copy has a part of the diff: apply it again";
const NOTHING: &str = "nothing was changed";
/// The diff was whole when it was checked.
const CHANGED_MEANWHILE: &str =
    "it was changed meanwhile, and the copy has a part of it: copy the diff again, then apply it again";

fn interrupted(hint: &'static str) -> Error {
    Error::new(ErrorKind::Cancelled, "applying the diff was cancelled").hint(hint)
}

fn open_diff(diff: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let stream = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK) // without waiting for the other end of a pipe
        .open(diff)
        .map_err(|error| cannot("open", diff, &error))?;
    if !stream.metadata().is_ok_and(|found| found.is_file()) {
        let what = format!("{} is not a regular file", diff.display());
        return Err(
            Error::new(ErrorKind::Backend, what).hint("a diff is read twice: save it to a file first")
        );
    }
    Ok(stream)
}

/// A copy of the base, which nobody else uses.
struct Target<'a> {
    file: File,
    path: &'a Path,
    _claims: Claims,
}

impl<'a> Target<'a> {
    fn open(path: &'a Path, size: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| cannot("open", path, &error))?;
        let place = Place { role: Role::Disk, path, file: &file, writable: true, claimed: true };
        let claims = Claims::take(&[place], Duration::ZERO)
            .map_err(|error| error.hint("apply the diff to something that nobody uses"))?;
        let has = (&file).seek(io::SeekFrom::End(0)).map_err(|error| cannot("use", path, &error))?;
        if has != size {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("the diff is of a disk of {size} bytes, and {} has {has}", path.display()),
            )
            .hint(
                "apply it to a copy of the disk as it was at the checkpoint; if the disk was resized since, resize the copy",
            ));
        }
        Ok(Self { file, path, _claims: claims })
    }

    /// Without data: zeroes.
    fn put(&self, offset: u64, length: u64, data: &[u8]) -> Result<()> {
        let put = if data.is_empty() {
            zero(&self.file, offset, length)
        } else {
            self.file.write_all_at(data, offset)
        };
        put.map_err(|error| self.failed(&error))
    }

    /// Makes what was put durable, even if not all could be.
    fn finish(&self, applied: Result<Applied>) -> Result<Applied> {
        let synced = self.file.sync_all().map_err(|error| self.failed(&error));
        applied.and_then(|applied| synced.map(|()| applied))
    }

    fn failed(&self, error: &io::Error) -> Error {
        cannot("write", self.path, error).hint(PART)
    }
}

/// Zeroes a range: by a hole, where that is possible.
fn zero(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain numbers and an open descriptor.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset.cast_signed(), length.cast_signed()) };
    if done == 0 {
        return Ok(());
    }
    let zeroes = [0; 1 << 16];
    let mut at = 0;
    while at < length {
        let part = (length - at).min(1 << 16);
        file.write_all_at(&zeroes[..usize::try_from(part).unwrap_or(0)], offset + at)?;
        at += part;
    }
    Ok(())
}

struct Extent {
    kind: u32,
    offset: u64,
    length: u64,
}

struct Stream<'a> {
    input: BufReader<File>,
    path: &'a Path,
    size: u64,
    /// What is read is put into the copy.
    changing: bool,
}

impl<'a> Stream<'a> {
    fn open(mut file: File, path: &'a Path) -> Result<Self> {
        let mut this = Self {
            input: BufReader::with_capacity(1 << 20, file.try_clone().map_err(|error| system(path, &error))?),
            path,
            size: 0,
            changing: false,
        };
        file.rewind().map_err(|error| system(path, &error))?;
        let mut bytes = [0; HEADER];
        match this.input.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(this.is_not()),
            read => read.map_err(|error| system(path, &error))?,
        }
        if !bytes.starts_with(MAGIC) {
            return Err(this.is_not());
        }
        let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if version != VERSION {
            let what =
                format!("{} has version {version}, and this ublk-ts knows version {VERSION}", path.display());
            return Err(Error::new(ErrorKind::Backend, what).hint("apply it with the ublk-ts that made it"));
        }
        let told = bytes[HEADER_SUM].to_vec();
        bytes[HEADER_SUM].fill(0);
        if crc32c(0, &bytes).to_le_bytes() != *told {
            return Err(this.damaged());
        }
        this.size = long(&bytes[16..24]);
        Ok(this)
    }

    fn is_not(&self) -> Error {
        Error::new(ErrorKind::Backend, format!("{} is no diff", self.path.display()))
            .hint("ublk-ts diff --format stream makes one")
    }

    fn damaged(&self) -> Error {
        Error::new(ErrorKind::Backend, format!("the diff {} is damaged", self.path.display()))
            .hint(if self.changing { CHANGED_MEANWHILE } else { "nothing was changed: copy it again" })
    }

    fn system(&self, error: &io::Error) -> Error {
        system(self.path, error).hint(if self.changing { PART } else { NOTHING })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.input.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::new(ErrorKind::Backend, format!("the diff {} is incomplete", self.path.display()))
                    .hint(if self.changing {
                        CHANGED_MEANWHILE
                    } else {
                        "nothing was changed: copy it again, or make it again"
                    }))
            }
            read => read.map_err(|error| self.system(&error)),
        }
    }

    /// Passes each extent to `take`, checked.
    fn all(
        &mut self,
        cancelled: &dyn Fn() -> bool,
        take: &mut dyn FnMut(&Extent, &[u8]) -> Result<()>,
    ) -> Result<Applied> {
        let (mut applied, mut data) = (Applied::default(), Vec::new());
        loop {
            if cancelled() {
                return Err(interrupted(if self.changing { PART } else { NOTHING }));
            }
            let mut head = [0; HEAD];
            self.read(&mut head)?;
            let extent = Extent {
                kind: u32::from_le_bytes([head[0], head[1], head[2], head[3]]),
                offset: long(&head[8..16]),
                length: long(&head[16..24]),
            };
            let (told, has_data) = (head[SUM].to_vec(), extent.kind == DATA);
            if has_data && extent.length > MOST as u64 {
                return Err(self.damaged());
            }
            data.resize(if has_data { usize::try_from(extent.length).unwrap_or(0) } else { 0 }, 0);
            self.read(&mut data)?;
            head[SUM].fill(0);
            if crc32c(crc32c(0, &head), &data).to_le_bytes() != *told {
                return Err(self.damaged());
            }
            match extent.kind {
                END => {
                    let more = self.input.read(&mut [0]).map_err(|error| self.system(&error))?;
                    let right =
                        more == 0 && (extent.offset, extent.length) == (applied.extents, applied.bytes);
                    return if right { Ok(applied) } else { Err(self.damaged()) };
                }
                DATA | ZEROES
                    if extent.offset.checked_add(extent.length).is_some_and(|end| end <= self.size) =>
                {
                    take(&extent, &data)?;
                    applied.extents += 1;
                    applied.bytes += extent.length;
                }
                _ => return Err(self.damaged()),
            }
        }
    }
}

fn long(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn system(path: &Path, error: &io::Error) -> Error {
    Error::system(format!("cannot read {}", path.display()), error).kind(ErrorKind::Backend)
}
