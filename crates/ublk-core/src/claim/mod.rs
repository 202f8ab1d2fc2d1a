//! Claims the files and block devices that hold a disk's data while a device serves them, so that two servers never
//! write to the same file, nor a server to a mounted block device.
//!
//! A claim is made of descriptors of its own: an OFD lock on a regular file, an exclusive open of a block device. Rings
//! register them beside the files that they work on. So the kernel drops a claim when the server's last operation has
//! ended, even if the server was killed.
//!
//! Locks are advisory: they do not keep out a program that does not lock the file.

mod block;
mod file_id;
mod holders;
mod lock;
mod loops;
mod sole;
pub(crate) mod upper;

pub use file_id::{FileId, Role, check_same};
pub use sole::Sole;

use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// A file or block device that holds data of a disk.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its role for the disk.
    pub role: Role,
    /// Its path.
    pub path: &'a Path,
    /// The backend's open file.
    pub file: &'a File,
    /// Whether the backend may write to it. Read-only disks can share a file.
    pub writable: bool,
    /// Whether to claim it while the disk is served.
    pub claimed: bool,
}

/// The claim on some places, until it is dropped.
#[derive(Debug, Default)]
pub struct Claims(Vec<OwnedFd>);

/// The hint for a place that is in use.
pub(crate) fn insist() -> Hint {
    Hint::from("end that first, or serve it nevertheless").by(Remedy::NotExclusive)
}

/// The interval between attempts.
const PAUSE: Duration = Duration::from_millis(5);

impl Claims {
    /// Claims all of these places, or none. Waits up to `patience` for a present holder: a process that was killed
    /// takes a while to end.
    pub fn take(places: &[Place<'_>], patience: Duration) -> Result<Self> {
        let until = Instant::now() + patience;
        loop {
            match Self::try_take(places) {
                Err(Refused::Taken(_)) if Instant::now() < until => std::thread::sleep(PAUSE),
                Err(Refused::Taken(at)) => return Err(busy(places[at].path, places[at].file).hint(insist())),
                Err(Refused::Failed(error)) => return Err(error),
                Ok(claims) => return Ok(claims),
            }
        }
    }

    fn try_take(places: &[Place<'_>]) -> std::result::Result<Self, Refused> {
        let mut held = Vec::new();
        for (at, place) in one_per_file(places)? {
            match claim(&place).map_err(|error| Refused::Failed(failed(place.path, &error)))? {
                Some(descriptors) => {
                    still_there(place.path, place.file).map_err(Refused::Failed)?;
                    held.extend(descriptors);
                }
                None => return Err(Refused::Taken(at)),
            }
        }
        Ok(Self(held))
    }

    /// The descriptors that hold the claims.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(AsRawFd::as_raw_fd)
    }
}

/// The places to claim, with their positions. Places in the same file, such as two slices of it, share one claim.
fn one_per_file<'a>(places: &[Place<'a>]) -> std::result::Result<Vec<(usize, Place<'a>)>, Refused> {
    let mut distinct: Vec<(usize, Which, Place<'a>)> = Vec::new();
    for (at, place) in places.iter().enumerate().filter(|(_, place)| place.claimed) {
        let which = Which::of(place.file).map_err(|error| Refused::Failed(failed(place.path, &error)))?;
        match distinct.iter_mut().find(|(_, other, _)| *other == which) {
            Some((_, _, other)) => other.writable |= place.writable,
            None => distinct.push((at, which, *place)),
        }
    }
    Ok(distinct.into_iter().map(|(at, _, place)| (at, place)).collect())
}

/// Distinguishes files and block devices that are open at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// A block device's number.
    Device(u64),
    /// A file's file system and inode.
    File(u64, u64),
}

impl Which {
    /// Of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let device = found.file_type().is_block_device();
        Ok(if device { Self::Device(found.rdev()) } else { Self::File(found.dev(), found.ino()) })
    }
}

enum Refused {
    /// The place with that index is in use.
    Taken(usize),
    Failed(Error),
}

/// `None`: it is in use.
fn claim(place: &Place<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    if loops::on(place.path, place.file, place.writable)?.is_some() {
        return Ok(None);
    }
    if place.file.metadata()?.file_type().is_block_device() {
        return block::claim(place);
    }
    let file = reopen(place, place.writable, 0)?;
    Ok(lock::try_lock(&file, place.writable)?.then(|| vec![file.into()]))
}

/// How long [`keep`] waits for a present holder: a process that was killed, and one that was just forked and has not
/// executed its program yet, hold their files for a moment.
const MOMENT: Duration = Duration::from_secs(1);

/// Locks a file that this process has open for writing, until it is closed or [unlocked](let_go).
pub fn keep(path: &Path, file: &File) -> Result<()> {
    hold(path, file, true)
}

/// The same for a file that is only read, and may be read by others. One that is [kept](keep) is shared from here on.
pub fn share(path: &Path, file: &File) -> Result<()> {
    hold(path, file, false)
}

fn hold(path: &Path, file: &File, exclusive: bool) -> Result<()> {
    let until = Instant::now() + MOMENT;
    loop {
        match lock::try_lock(file, exclusive) {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() < until => std::thread::sleep(PAUSE),
            Ok(false) => return Err(busy(path, file)),
            Err(error) => return Err(failed(path, &error)),
        }
    }
}

/// Fails if a file that was just locked has no name any more: whoever held it until then has removed it, and what is written to
/// it would be lost.
pub fn still_there(path: &Path, file: &File) -> Result<()> {
    let found = file.metadata().map_err(|error| failed(path, &error))?;
    let is_it = |other: fs::Metadata| (other.dev(), other.ino()) == (found.dev(), found.ino());
    if found.nlink() > 0 || fs::metadata(path).is_ok_and(is_it) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Busy, format!("{} was removed by the process that used it", path.display()))
        .hint("try again"))
}

/// Whether nobody else has locked a file: it is locked from here on.
pub fn is_free(file: &File) -> bool {
    lock::try_lock(file, true).unwrap_or(false)
}

/// The same for a file that others may lock like this, too.
pub fn is_shareable(file: &File) -> bool {
    lock::try_lock(file, false).unwrap_or(false)
}

/// Ends [`keep`].
pub fn let_go(file: &File) {
    let _ = lock::unlock(file); // not locked: nothing to do
}

/// The same file or block device, opened a second time, since a lock belongs to an open file.
fn reopen(place: &Place<'_>, writable: bool, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable).custom_flags(flags | libc::O_NONBLOCK);
    match options.open(format!("/proc/self/fd/{}", place.file.as_raw_fd())) {
        // Without /proc, by its path, if that still leads to the same file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (file, meant) = (options.open(place.path)?, place.file.metadata()?);
            let found = file.metadata()?;
            let same = (found.dev(), found.ino()) == (meant.dev(), meant.ino());
            if same { Ok(file) } else { Err(error) }
        }
        opened => opened,
    }
}

/// The error for a file or block device that is in use.
pub fn busy(path: &Path, file: &File) -> Error {
    let by = holders::of(path, file);
    let by =
        if by.is_empty() { "by a process that is not visible from here".to_owned() } else { by.join(", ") };
    Error::new(ErrorKind::Busy, format!("{} is in use: {by}", path.display()))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let failed = Error::system(format!("cannot claim {}", path.display()), error).kind(ErrorKind::Backend);
    match error.raw_os_error() {
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => failed
            .hint(Hint::from("its file system has no locks: serve it without one").by(Remedy::NotExclusive)),
        _ => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_one_file_share_a_claim() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "data").unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (one, two) = (open(), open());
        let place = |file, writable| Place { role: Role::Disk, path: &path, file, writable, claimed: true };
        let claims = Claims::take(&[place(&one, false), place(&two, true)], Duration::ZERO).unwrap();
        assert_eq!(claims.descriptors().count(), 1);
        // It is a writer's: another reader is refused.
        let refused = Claims::take(&[place(&one, false)], Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Busy);
        drop(claims);
        Claims::take(&[place(&two, true)], Duration::ZERO).unwrap();
    }
}
