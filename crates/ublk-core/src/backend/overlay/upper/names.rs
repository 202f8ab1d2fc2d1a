//! Names of files that appear and change at once: a file is whole before it has its name, and after a crash a name leads to
//! the old file or the new one.

use crate::backend::map_file::{directory, sync_parent};
use nix::fcntl::AtFlags;
use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that will be at a path.
pub struct New {
    pub file: File,
    /// Its name until then, where the file system cannot make one without.
    named: Option<PathBuf>,
}

impl New {
    /// An empty file, which nobody else can open for now. If the process dies, it is gone, or replaced by the next one.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match options.clone().custom_flags(libc::O_TMPFILE).open(directory(path)) {
            Ok(file) => Ok(Self { file, named: None }),
            Err(error) if cannot(&error) => Self::named(&with_suffix(path, ".new")),
            Err(error) => Err(error),
        }
    }

    /// The same with a name, which no user gives a file.
    fn named(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        Ok(Self { file, named: Some(path.to_owned()) })
    }

    /// Gives it its name, durably. Fails if there is a file with that name. The file itself is durable already.
    pub fn publish(self, path: &Path) -> io::Result<File> {
        let Self { file, named } = self;
        match &named {
            None => {
                let from = format!("/proc/self/fd/{}", file.as_raw_fd());
                nix::unistd::linkat(
                    nix::fcntl::AT_FDCWD,
                    &*from,
                    nix::fcntl::AT_FDCWD,
                    path,
                    AtFlags::AT_SYMLINK_FOLLOW,
                )?;
            }
            Some(from) => {
                fs::hard_link(from, path)?; // unlike a rename, it replaces nothing
                fs::remove_file(from)?;
            }
        }
        sync_parent(path)?;
        Ok(file)
    }
}

impl New {
    /// It is not to have a name after all.
    pub fn discard(self) {
        if let Some(named) = self.named {
            let _ = fs::remove_file(named);
        }
    }
}

/// The path with something behind its last name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Whether it fails because the file system does not support it.
fn cannot(error: &io::Error) -> bool {
    // An old kernel takes the flag for an attempt to write to a directory.
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::EISDIR | libc::ENOENT)
    )
}

/// Whether two names lead to the same file.
pub fn same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Two files in one directory exchange their names, durably and at once.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
    let (first, second) = (text(one)?, text(other)?);
    // Not every C library has a function for it.
    // SAFETY: two strings that end in a zero, and plain numbers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            first.as_ptr(),
            libc::AT_FDCWD,
            second.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    sync_parent(one)
}
