//! A file that appears under its name when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use ublk_core::error::{Error, ErrorKind, Result};

/// See the [module](self).
pub struct Output {
    file: File,
    path: PathBuf,
    /// Where it is until then, if its file system cannot make a file without a name.
    temporary: Option<PathBuf>,
}

impl Output {
    /// A file that is to appear at `path`, where there is none.
    pub fn create(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::Exists, format!("{} exists already", path.display()))
                .hint("name another file, or remove that one"));
        }
        let path = path.to_owned();
        if let Ok(file) = nameless(&directory(&path)) {
            return Ok(Self { file, path, temporary: None });
        }
        Self::named(path)
    }

    /// Where a file without a name cannot be made.
    pub(super) fn named(path: PathBuf) -> Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&temporary).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                let what = format!("{} exists already", temporary.display());
                return Error::new(ErrorKind::Exists, what).hint(
                    "name another file, or remove that one if nobody writes it: a killed server leaves it",
                );
            }
            failed(&path, &error)
        })?;
        Ok(Self { file, path, temporary: Some(temporary) })
    }

    /// Its file.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| failed(&self.path, &error))
    }

    /// Where to put aside what cannot be written yet.
    pub fn aside(&self) -> Aside {
        Aside(directory(&self.path))
    }

    /// Makes it durable, and lets it appear.
    pub fn complete(self) -> Result<()> {
        let fail = |error: io::Error| failed(&self.path, &error);
        self.file.sync_all().map_err(fail)?;
        let there = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let from = self.temporary.as_deref().unwrap_or(Path::new(&there));
        let (old, new) = (c_path(from).map_err(fail)?, c_path(&self.path).map_err(fail)?);
        let cwd = libc::AT_FDCWD;
        // Both replace nothing. Where a file has to have a name from the beginning, it often can have one only (FAT, CIFS).
        // SAFETY: both are paths that end with a zero.
        let renamed = self.temporary.is_some()
            && unsafe { libc::renameat2(cwd, old.as_ptr(), cwd, new.as_ptr(), libc::RENAME_NOREPLACE) } == 0;
        // SAFETY: as above.
        let linked = renamed
            || unsafe { libc::linkat(cwd, old.as_ptr(), cwd, new.as_ptr(), libc::AT_SYMLINK_FOLLOW) } == 0;
        if !linked {
            return Err(fail(io::Error::last_os_error()));
        }
        File::open(directory(&self.path)).and_then(|dir| dir.sync_all()).map_err(fail)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary); // it may have got its name
        }
    }
}

/// The directory for what an output is too slow for.
#[derive(Debug, Clone)]
pub struct Aside(PathBuf);

impl Aside {
    /// For an output that is no file: `/var/tmp`, which is not in memory, unless `TMPDIR` names another directory.
    pub fn temporary() -> Self {
        Self(std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file that nobody else sees.
    pub(super) fn file(&self) -> io::Result<File> {
        nameless(&self.0).or_else(|_| {
            let path = self.0.join(format!(".ublk-ts.{}.aside", std::process::id()));
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            fs::remove_file(path)?;
            Ok(file)
        })
    }
}

fn nameless(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(dir)
}

fn directory(path: &Path) -> PathBuf {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn c_path(path: &Path) -> io::Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::CString::new(path.as_os_str().as_bytes())?)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::system(format!("cannot write {}", path.display()), error).kind(ErrorKind::Backend)
}
