//! Locks of open files (OFD locks, `fcntl(2)`), on the whole file. Unlike POSIX locks they are not released when the
//! process closes another descriptor of the file.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

fn whole(kind: libc::c_int) -> libc::flock {
    #[expect(clippy::cast_possible_truncation, reason = "the kernel's constants, for fields of this type")]
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Locks a file exclusively, or shared with other readers. Returns whether no other lock conflicts.
pub fn try_lock(file: impl AsFd, exclusive: bool) -> io::Result<bool> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole(kind))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Unlocks it.
pub fn unlock(file: impl AsFd) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK))).map(drop).map_err(io::Error::from)
}

/// A lock of another open file.
pub struct Other {
    /// Whether it is shared.
    pub shared: bool,
    /// The process, if it is a POSIX lock.
    pub pid: Option<i32>,
}

/// A lock that conflicts with an exclusive one.
pub fn other(file: &File) -> io::Result<Option<Other>> {
    let mut lock = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then(|| Other {
        shared: i32::from(lock.l_type) == libc::F_RDLCK,
        pid: (lock.l_pid > 0).then_some(lock.l_pid),
    }))
}
