//! A file that a served disk shares with others as its reader, for one who has to write to it meanwhile.

use super::{Claims, PAUSE, Place, Which, failed, lock, loops, reopen, still_there};
use crate::error::{Error, ErrorKind, Result};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long it waits for other readers: one that was just killed has the file for a moment.
const MOMENT: Duration = Duration::from_secs(1);

/// A regular file that nobody else uses, open for writing, until it is dropped. Then the disk shares it again.
pub struct Sole {
    file: File,
    which: Which,
    shared: Weak<Mutex<Claims>>,
}

impl Sole {
    /// Of a file that the disk with these claims shares, if it claims it.
    ///
    /// The file is locked at every moment: the new open file shares it before the disk's claims let go of it, and its lock
    /// becomes an exclusive one only then, which is one step.
    pub fn take(place: &Place<'_>, shared: &Weak<Mutex<Claims>>) -> Result<Self> {
        let failed = |error: io::Error| failed(place.path, &error);
        if loops::on(place.path, place.file, true).map_err(failed)?.is_some() {
            return Err(others(place));
        }
        let which = Which::of(place.file).map_err(failed)?;
        let file = reopen(place, true, 0).map_err(|error| {
            Error::system(format!("cannot open {} for writing", place.path.display()), &error)
                .kind(ErrorKind::Backend)
        })?;
        if !lock::try_lock(&file, false).map_err(failed)? {
            return Err(others(place));
        }
        let this = Self { file, which, shared: shared.clone() };
        this.each_shared(|descriptor| lock::unlock(descriptor));
        let until = Instant::now() + MOMENT;
        while !lock::try_lock(&this.file, true).map_err(failed)? {
            if Instant::now() > until {
                return Err(others(place));
            }
            std::thread::sleep(PAUSE);
        }
        still_there(place.path, &this.file)?;
        Ok(this)
    }

    /// The file, open for writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn each_shared(&self, change: impl Fn(&OwnedFd) -> io::Result<()>) {
        let Some(claims) = self.shared.upgrade() else { return }; // the disk has ended
        let claims: MutexGuard<'_, Claims> = claims.lock().unwrap_or_else(PoisonError::into_inner);
        for descriptor in &claims.0 {
            let same = descriptor.try_clone().map(File::from).and_then(|file| Which::of(&file));
            if same.is_ok_and(|which| which == self.which) {
                let _ = change(descriptor); // it shares a file of which this has a lock: nothing conflicts
            }
        }
    }
}

impl Drop for Sole {
    fn drop(&mut self) {
        // In the same order: it is shared before the disk's claims share it, and the file is closed last.
        let _ = lock::try_lock(&self.file, false);
        self.each_shared(|descriptor| lock::try_lock(descriptor, false).map(drop));
    }
}

fn others(place: &Place<'_>) -> Error {
    Error::new(ErrorKind::Busy, format!("{} is in use by others than this disk", place.path.display()))
        .hint("end their use of it: it is going to be changed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Role;
    use std::path::Path;
    use std::sync::Arc;

    fn place<'a>(path: &'a Path, file: &'a File) -> Place<'a> {
        Place { role: Role::Base, path, file, writable: false, claimed: true }
    }

    #[test]
    fn a_file_that_a_disk_shares_is_its_own_for_a_while_if_nobody_else_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "data").unwrap();
        let file = File::open(&path).unwrap();
        let place = place(&path, &file);
        let claims = || Claims::take(&[place], Duration::ZERO);
        let own = Arc::new(Mutex::new(claims().unwrap()));
        let other = claims().unwrap();
        let refused = Sole::take(&place, &Arc::downgrade(&own)).err().unwrap();
        assert_eq!(refused.message, format!("{} is in use by others than this disk", path.display()));
        // It is shared as before.
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        drop(other);
        assert!(!lock::try_lock(&writer, true).unwrap());
        let sole = Sole::take(&place, &Arc::downgrade(&own)).unwrap();
        assert!(claims().is_err());
        drop(sole);
        claims().unwrap();
        assert!(!lock::try_lock(&writer, true).unwrap());
        drop(own);
        assert!(lock::try_lock(&writer, true).unwrap());
        lock::unlock(&writer).unwrap();
        // One that does not claim its files has a lock of its own meanwhile.
        let sole = Sole::take(&place, &Weak::new()).unwrap();
        assert!(claims().is_err());
        drop(sole);
        claims().unwrap();
    }
}
