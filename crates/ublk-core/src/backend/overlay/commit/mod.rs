//! Puts what was written over a base file into that file, while neither is served.
//!
//! First the upper says, durably, that this has begun: from then on nobody serves it, since its base is partly the old one. Then
//! all that the upper and the snapshots below it have is written to the base, and the base is synced. Last the upper is
//! removed. A commit that is interrupted at any moment is done again from its beginning, which gives the same.
//!
//! [`live`] does the same for a disk that is in use.

mod live;

pub use live::Commit;

use super::upper::{Copying, OF_DEVICE, Put, Shape, Upper, is_of_commit};
use super::{Overlay, identity_of};
use crate::backend::map_file::{checksum, sync_parent};
use crate::backend::{Backend, File};
use crate::claim::Claims;
use crate::claim::upper::MAGIC;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// The longest step in which the present time of a file system grows is two seconds.
const LONGEST_STEP: Duration = Duration::from_secs(5);

impl Overlay {
    /// See the [module](self). The base is a file or a block device. `force`: also if the upper is over snapshots, which cannot
    /// be used any more then; nor can other uppers over the same base.
    pub fn commit(path: &Path, base: &Path, force: bool, given_up: &dyn Fn() -> bool) -> Result<()> {
        // What is removed at the end is the file, not a link to it.
        let path = &fs::canonicalize(path).map_err(|error| {
            Error::system(format!("cannot open {}", path.display()), &error).kind(ErrorKind::Backend)
        })?;
        if Self::nothing_below(path)?.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the upper {} needs no base, so it cannot be put into one", path.display()),
            )
            .hint("serve it, and copy its disk"));
        }
        let file = File::open(base, false, false)?;
        let _claims = Claims::take(&file.places(), Duration::ZERO)?;
        check_raw(file.file(), base)?;
        let (size, into, now) = (Upper::size_at(path)?, which(file.file())?, identity_of(&file)?);
        let begun = Upper::committed_at(path, into, &now)?;
        if begun.as_ref().is_some_and(|(_, is_it)| !is_it) {
            let message = format!(
                "the commit of {} was begun into another file than {}",
                path.display(),
                base.display()
            );
            return Err(Error::new(ErrorKind::Backend, message)
                .hint("go on with that one, which is partly the old one"));
        }
        if !is_regular(file.file()) && !force {
            let message =
                format!("other uppers over the block device {} would not notice the change", base.display());
            return Err(Error::new(ErrorKind::Busy, message)
                .hint(Hint::from("use none of them afterwards").by(Remedy::Force)));
        }
        let (committing, live) = (begun.is_some(), Upper::is_putting_at(path)?);
        // If it was begun with the upper itself, that is checked against the base of before.
        let name = begun.filter(|_| !live).map_or(now, |(before, _)| before);
        let block_size = file.properties().block_size;
        let which = Some(into);
        let shape = Shape { size, block_size, base: &name, committing, file: which, ..Shape::default() };
        let layers = Upper::open_chain(path, &shape, false)?;
        let Some(top) = layers.last() else { return Ok(()) };
        let lower = &layers[..layers.len() - 1];
        let snapshots = lower.iter().filter(|layer| layer.is_spoilt_by_commit(top)).count();
        if snapshots > 0 && !force {
            return Err(over_snapshots(path, snapshots));
        }
        let mut useless = top.files_below();
        useless.retain(|path| live || is_of_commit(path));
        check_size(&file, base, size)?;
        let failed = |error: &io::Error| {
            Error::system(format!("cannot put {} into {}", path.display(), base.display()), error)
                .kind(ErrorKind::Backend)
                .hint("nothing is lost: do it again to go on")
        };
        let mut pace = |_, copied| match copied == 0 && given_up() {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        };
        // No disk writes meanwhile, and when it has ended there is more room than before.
        let room = &|_| Ok(());
        let copying = Copying { base: file.file(), size, most: u64::MAX, pace: &mut pace, room };
        let stamp = || {
            if !is_regular(file.file()) {
                return Ok(());
            }
            if size > file.properties().size {
                file.file().set_len(size)?;
            }
            // So other uppers over it are refused from here on, whatever of the data reaches the medium.
            stamp(file.file())
        };
        let put = Put { copying, into, stamp: &stamp };
        let identity = || identity_of(&file).map_err(|error| io::Error::other(error.message));
        Upper::put_whole(&layers, put, &identity).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => Error::new(ErrorKind::Cancelled, "the commit was interrupted")
                .hint("the base is partly the old one: do it again to go on"),
            _ => failed(&error),
        })?;
        if is_regular(file.file()) {
            file.file().set_len(size).map_err(|error| failed(&error))?;
        }
        file.file().sync_all().map_err(|error| failed(&error))?;
        // The upper first: without it nothing leads to the layers.
        let gone = std::iter::once(path).chain(&useless).try_for_each(fs::remove_file);
        gone.and_then(|()| sync_parent(path)).map_err(|error| failed(&error))
    }
}

fn over_snapshots(path: &Path, count: usize) -> Error {
    Error::new(ErrorKind::Busy, format!("the upper {} is over {count} snapshots", path.display()))
        .hint(Hint::from("they, and all disks over them, cannot be used afterwards").by(Remedy::Force))
}

/// Gives the base the present time, which it does not have yet, and makes that and all of its data durable.
///
/// The file system's own present time: whoever may write to a file may give it that one, and only its owner any other. It grows
/// in steps: of some milliseconds, or of seconds on some file systems.
fn stamp(file: &fs::File) -> io::Result<()> {
    let time = || file.metadata().map(|found| (found.mtime(), found.mtime_nsec()));
    let (before, began) = (time()?, Instant::now());
    loop {
        // SAFETY: an open descriptor; without times, the call takes the present one.
        if unsafe { libc::futimens(file.as_raw_fd(), std::ptr::null()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if time()? != before {
            return file.sync_all();
        }
        if began.elapsed() > LONGEST_STEP {
            return Err(io::Error::other("its file system does not change the time of the base"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The base has the disk's bytes at their own offsets: it is no image of some format, which has the same size and time as the
/// disk in it.
fn check_raw(file: &fs::File, base: &Path) -> Result<()> {
    let mut first = [0; MAGIC.len()];
    let read = file.read_exact_at(&mut first, 0);
    let is = |magic: &[u8]| read.is_ok() && first.starts_with(magic);
    let what = match () {
        () if is(b"QFI\xfb") => "a qcow2 image",
        () if is(MAGIC) => "the upper of another overlay",
        () => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unsupported, format!("{} is {what}, not the bytes of a disk", base.display()))
        .hint("serve the overlay, and copy its disk"))
}

/// Distinguishes the base from other files, as long as it exists: a file by its inode and birth time, which no boot changes, and
/// a block device by its number. Not 0.
pub(super) fn which(file: &fs::File) -> Result<u64> {
    let found = file
        .metadata()
        .map_err(|error| Error::system("cannot look at the base", &error).kind(ErrorKind::Backend))?;
    if !found.is_file() {
        return Ok(found.rdev() | OF_DEVICE);
    }
    // Inode numbers are used again, and by several file systems. Some file systems do not know when a file was made.
    let born = found.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(checksum(format!("inode {}, made at {born:?}", found.ino()).bytes()) & !OF_DEVICE | 1)
}

fn is_regular(file: &fs::File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file())
}

/// A block device keeps its size. A file gets that of the disk: at the beginning if it is larger, else at the end.
fn check_size(file: &File, base: &Path, size: u64) -> Result<()> {
    let found = file.properties().size;
    if size <= found || is_regular(file.file()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Backend,
        format!("the disk has {size} bytes, and {} only {found}", base.display()),
    )
    .hint("shrink the disk before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(file: &fs::File) -> std::time::SystemTime {
        file.metadata().unwrap().modified().unwrap()
    }

    #[test]
    fn a_base_has_a_number_of_its_own_that_is_not_that_of_a_device() {
        let files = [(); 20].map(|()| tempfile::tempfile_in("/dev/shm").unwrap());
        let mut numbers: Vec<_> = files.iter().map(|file| which(file).unwrap()).collect();
        assert_eq!(which(&files[3]).unwrap(), numbers[3]);
        assert!(numbers.iter().all(|number| *number != 0 && number & OF_DEVICE == 0));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), files.len());
        assert!(which(&fs::File::open("/dev/null").unwrap()).unwrap() & OF_DEVICE != 0);
    }

    #[test]
    fn each_stamp_is_another_time() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        for _ in 0..20 {
            let before = time(&file);
            stamp(&file).unwrap();
            assert!(time(&file) > before);
        }
    }

    /// Whoever may write to the base may commit, also if it belongs to another user. Only root can be another user here.
    #[test]
    fn a_base_of_another_user_is_stamped() {
        let named = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let path = named.path();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let before = time(&file);
        // SAFETY: it takes nothing.
        let root = unsafe { libc::geteuid() } == 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if root {
                    // This thread alone is another user for files from here on, without the rights of root.
                    // SAFETY: a plain number.
                    unsafe { libc::setfsuid(65534) };
                    let other = file.set_modified(std::time::UNIX_EPOCH).unwrap_err();
                    assert_eq!(other.raw_os_error(), Some(libc::EPERM));
                }
                stamp(&file).unwrap();
            });
        });
        assert!(time(&file) > before);
    }
}
