//! The files that a helper opens: known again, and claimed as those of any disk.

use super::{Claiming, PAUSE};
use crate::claim::{Claims, Place, Role, busy, insist, is_free, is_shareable};
use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A file that a helper is to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub path: PathBuf,
    pub role: Role,
    /// Whether it may write to it.
    pub writable: bool,
}

/// The same, opened here.
pub struct Images(Vec<(Image, File)>);

/// What is claimed, until it is dropped, here and in the helpers that inherited it.
pub struct Held {
    claims: Claims,
    mark: Option<File>,
}

impl Images {
    pub fn open(images: &[Image]) -> Result<Self> {
        let opened = images.iter().map(|image| {
            let mut options = OpenOptions::new();
            // Without waiting, whatever it is.
            options.read(true).write(image.writable).custom_flags(libc::O_NONBLOCK);
            let file = options.open(&image.path).map_err(|error| {
                let what = format!("cannot open {}", image.path.display());
                Error::system(what, &error).kind(ErrorKind::Backend)
            })?;
            Ok((image.clone(), file))
        });
        Ok(Self(opened.collect::<Result<_>>()?))
    }

    /// They are claimed by [`Self::claim`].
    pub fn places(&self) -> Vec<Place<'_>> {
        self.marked(false)
    }

    fn marked(&self, claimed: bool) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        for (Image { path, role, writable }, file) in &self.0 {
            places.push(Place { role: *role, path, file, writable: *writable, claimed });
        }
        places
    }

    /// The error if another disk has what it serves.
    pub fn busy(&self) -> Error {
        match self.0.first() {
            Some((image, file)) => busy(&image.path, file).hint(insist()),
            None => Error::new(ErrorKind::Busy, "another disk is made of the same").hint(insist()),
        }
    }

    /// Claims them for a helper. Waits up to `patience` for one that just ends.
    pub fn claim(&self, how: &Claiming, patience: Duration) -> Result<Held> {
        match how {
            Claiming::No => Ok(Held { claims: Claims::default(), mark: None }),
            Claiming::Images => Ok(Held { claims: Claims::take(&self.marked(true), patience)?, mark: None }),
            Claiming::Mark { file, shared } => {
                let until = Instant::now() + patience;
                loop {
                    if let Some(mark) = locked(file, !shared)? {
                        return Ok(Held { claims: Claims::default(), mark: Some(mark) });
                    }
                    if Instant::now() >= until {
                        return Err(self.busy());
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
    }
}

impl Held {
    /// What holds it.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.claims.descriptors().chain(self.mark.as_ref().map(AsRawFd::as_raw_fd))
    }
}

/// A file that is there to be locked. `None`: another process has locked it.
pub fn locked(path: &Path, exclusive: bool) -> Result<Option<File>> {
    let failed = |error| Error::system(format!("cannot lock {}", path.display()), &error);
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(path).map_err(failed)?;
        if !(if exclusive { is_free(&file) } else { is_shareable(&file) }) {
            return Ok(None);
        }
        // Another process may have removed it meanwhile, and others use a new one then.
        if file.metadata().map_err(failed)?.nlink() > 0 {
            return Ok(Some(file));
        }
    }
}
