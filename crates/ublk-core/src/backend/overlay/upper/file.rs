//! An upper's file, before anybody relies on what it says.

use super::Shape;
use super::format::{Header, PAGE, State, refused};
use super::medium::Medium;
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub fn system(path: &Path, error: &io::Error) -> Error {
    Error::system(format!("cannot use the upper {}", path.display()), error).kind(ErrorKind::Backend)
}

/// Checks that it is the upper of that disk, and in a state in which it can be used.
pub fn admit(header: &Header, path: &Path, shape: &Shape<'_>, read_only: bool, layer: bool) -> Result<()> {
    // Before its base, which is another one by then.
    if header.state == State::Committing && !shape.committing {
        return Err(refused(path, "was being put into its base, and that was interrupted")
            .hint("do it again: until then the base is partly the old one"));
    }
    header.check(path, shape, layer)?;
    match header.state {
        State::Sealed if !read_only => {
            return Err(refused(path, "is sealed: snapshots need it as it is")
                .hint("use the upper above it, make a fork, or open it read-only"));
        }
        State::Resetting if read_only => {
            return Err(refused(path, "was being reset when its server was killed")
                .hint("open it once for writing, which ends that"));
        }
        _ => {}
    }
    Ok(())
}

/// The file once more, so that each of both is told when a write-back has failed: the kernel tells each open file once.
pub fn reopened(file: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let writable = OpenOptions::new().read(true).write(true).open(&path);
    writable.or_else(|_| File::open(&path)).or_else(|_| file.try_clone())
}

/// Opens an upper and reads what it says of itself.
pub fn read(path: &Path, writable: bool, layer: bool) -> Result<(File, Header)> {
    let mut options = OpenOptions::new();
    // A layer's name is what another file says: it is not to lead out of the directory.
    let follow = if layer { libc::O_NOFOLLOW } else { 0 };
    options.read(true).write(writable).custom_flags(libc::O_NONBLOCK | follow); // do not wait for a FIFO's writer
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => {
            system(path, &error).hint("the layers of a chain are files in one directory, not links")
        }
        _ => system(path, &error),
    })?;
    if !file.metadata().map_err(|error| system(path, &error))?.is_file() {
        return Err(refused(path, "is no regular file").hint("name a file, or one that does not exist yet"));
    }
    let header = header_of(&file, path)?;
    Ok((file, header))
}

pub fn header_of(file: &File, path: &Path) -> Result<Header> {
    let (mut page, length) = ([0; to_usize(PAGE)], file.length().map_err(|error| system(path, &error))?);
    if length == 0 {
        return Err(refused(path, "is empty").hint("remove it: a new one is made then"));
    }
    match file.read(&mut page, 0) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(system(path, &error)),
        _ => {} // a short one is no upper, or truncated
    }
    let header = Header::of(path, &page)?;
    let whole = header.layout.length(header.size);
    // A reset cuts it for a moment.
    if length < whole && header.state != State::Resetting {
        return Err(refused(path, format!("was truncated: it has {length} bytes of {whole}"))
            .hint("restore it from a copy, or use another upper"));
    }
    Ok(header)
}
