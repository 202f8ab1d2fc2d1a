//! Files that a backend creates when it is opened: they go again if no disk is served from them.

use crate::claim;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A file that was created, and is removed when this is dropped, unless it was [kept](Self::keep), or somebody else uses it.
///
/// It is locked while it is removed. Whoever waits for that lock finds the file [gone](claim::still_there).
#[derive(Default)]
pub struct NewFile(Mutex<Option<Created>>);

struct Created {
    path: PathBuf,
    /// The same open file as its owner's, and so the same lock.
    file: File,
}

impl NewFile {
    /// A file that was just created.
    pub fn at(path: &Path, file: &File) -> io::Result<Self> {
        let created = Created { path: path.to_owned(), file: file.try_clone()? };
        Ok(Self(Mutex::new(Some(created))))
    }

    /// Opens a file, or creates it with mode 600.
    pub fn open_or_create(options: &OpenOptions, path: &Path) -> io::Result<(File, Self)> {
        match options.clone().create(false).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return Ok((opened?, Self::default())),
        }
        match options.clone().create_new(true).mode(0o600).open(path) {
            // Another process was faster, or a symbolic link leads to a file that does not exist.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = options.clone().create(true).truncate(false).mode(0o600).open(path)?;
                Ok((file, Self::default()))
            }
            created => {
                let file = created?;
                let new = Self::at(path, &file)?;
                Ok((file, new))
            }
        }
    }

    /// A disk is served from it: it stays.
    pub fn keep(&self) {
        self.take();
    }

    /// No disk will be served from it: it goes, unless it was [kept](Self::keep).
    pub fn remove(&self) {
        if let Some(Created { path, file }) = self.take()
            && claim::is_free(&file)
            && is_at(&file, &path)
        {
            let _ = fs::remove_file(path); // it has no data: who meets it again can use it
        }
    }

    fn take(&self) -> Option<Created> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(found)) => (file.dev(), file.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    fn reading_and_writing() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options
    }

    #[test]
    fn only_a_file_that_was_created_here_and_not_kept_is_removed() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("file");
        let open = || NewFile::open_or_create(&reading_and_writing(), &path).unwrap();
        drop(open());
        assert!(!path.exists());
        open().1.keep();
        assert!(path.exists());
        drop(open());
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_took_its_place_stays() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("file");
        let (_file, new) = NewFile::open_or_create(&reading_and_writing(), &path).unwrap();
        fs::write(dir.path().join("other"), "data").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        drop(new);
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_file_that_somebody_else_has_locked_stays_and_who_waits_for_it_finds_it_gone() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("file");
        let (_file, new) = NewFile::open_or_create(&reading_and_writing(), &path).unwrap();
        let other = reading_and_writing().open(&path).unwrap();
        claim::keep(&path, &other).unwrap();
        drop(new);
        assert!(path.exists());
        drop(other);
        fs::remove_file(&path).unwrap();

        let (file, new) = NewFile::open_or_create(&reading_and_writing(), &path).unwrap();
        claim::keep(&path, &file).unwrap();
        let waits = std::thread::spawn({
            let (path, other) = (path.clone(), reading_and_writing().open(&path).unwrap());
            move || claim::keep(&path, &other).and_then(|()| claim::still_there(&path, &other))
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop((new, file));
        assert!(!path.exists());
        let refused = waits.join().unwrap().unwrap_err().to_string();
        assert!(refused.contains("was removed by the process that used it"), "{refused}");
    }

    #[test]
    fn a_symbolic_link_leads_to_a_new_file() {
        let dir = tempdir().unwrap();
        let (link, path) = (dir.path().join("link"), dir.path().join("file"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        drop(NewFile::open_or_create(&reading_and_writing(), &link).unwrap());
        assert!(path.exists());
    }
}
