//! A directory as a store: on a file system that several machines share, or to try things out.
//!
//! An object is a file that is complete and durable before it has its name: it is written under another name, synced, and
//! linked. link(2) fails if the name is taken, so of several creators one wins. Then the directory is synced, also by who
//! finds the name taken: what it learns must not be undone by a power failure.

use super::url::is_key;
use super::{Address, Answer, Counting, Created, Entry, Store, StoreCounters, StoreError, StoreErrorKind};
use bytes::Bytes;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// Files under construction begin so, and keys do not.
const NEW: &str = ".new-";

/// After how long a file under construction is taken for one that nobody finishes.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Objects in a directory.
pub struct Directory {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    counting: Counting,
    /// Of the names of files under construction: nobody else's are the same.
    opened: u128,
    next: AtomicU64,
}

impl Directory {
    /// Makes the directory if it is not there; those above it must be.
    pub fn open(address: &Address) -> Result<Self, StoreError> {
        let root = PathBuf::from(&address.prefix);
        match fs::create_dir(&root) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(told("cannot make", &root, &error));
            }
            _ => {}
        }
        if !root.is_dir() {
            return Err(StoreError::new(
                StoreErrorKind::Refused,
                format!("{} is no directory", root.display()),
            ));
        }
        let opened = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let shared = Shared { root, counting: Counting::default(), opened, next: AtomicU64::new(0) };
        Ok(Self { name: address.to_string(), shared: Arc::new(shared) })
    }

    /// Runs it where it may block.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let ran = tokio::task::spawn_blocking(move || {
                let result = work(&shared);
                if result.as_ref().is_err_and(|error| error.kind != StoreErrorKind::NotFound) {
                    shared.counting.failed();
                }
                result
            });
            let stopped =
                || StoreError::new(StoreErrorKind::Unavailable, "the operation on a file was not done");
            ran.await.unwrap_or_else(|_| Err(stopped()))
        })
    }
}

impl Shared {
    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        Ok(self.root.join(super::url::checked(key)?))
    }

    fn create(&self, key: &str, body: &[Bytes]) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        self.counting.put(body.iter().map(|part| part.len() as u64).sum());
        let directory = path.parent().unwrap_or(&self.root);
        // A directory may vanish between two steps: whoever deletes the last file in it removes it.
        for _ in 0..8 {
            match self.make(directory).and_then(|()| self.create_in(directory, &path, body)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(told("cannot create", &path, &error)),
                Ok(created) => return Ok(created),
            }
        }
        let message = format!("cannot create {}: its directory vanishes", path.display());
        Err(StoreError::new(StoreErrorKind::Unavailable, message))
    }

    /// Makes a directory below the root, and each above it, durably.
    fn make(&self, directory: &Path) -> std::io::Result<()> {
        if directory.is_dir() || directory == self.root {
            return Ok(());
        }
        let above = directory.parent().unwrap_or(&self.root);
        self.make(above)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => sync(above),
        }
    }

    fn create_in(&self, directory: &Path, path: &Path, body: &[Bytes]) -> std::io::Result<Created> {
        let number = self.next.fetch_add(1, Relaxed);
        let new = directory.join(format!("{NEW}{}-{:x}-{number}", std::process::id(), self.opened));
        if let Err(error) = write(&new, body) {
            let _ = fs::remove_file(&new);
            // No such name was there, as it has the time in it: this is not about the key.
            let taken = error.kind() == ErrorKind::AlreadyExists;
            return Err(if taken { std::io::Error::other(error) } else { error });
        }
        let linked = fs::hard_link(&new, path);
        let removed = fs::remove_file(&new);
        let created = match linked {
            Ok(()) => Created::Won,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Created::Exists,
            Err(error) => return Err(error),
        };
        sync(directory)?;
        removed.map(|()| created)
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Bytes::new());
        }
        self.counting.gets.fetch_add(1, Relaxed);
        let read = || {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            let range = range.unwrap_or(0..size);
            let (start, end) = (range.start.min(size), range.end.min(size));
            let mut bytes = vec![0; usize::try_from(end - start).map_err(|_| ErrorKind::OutOfMemory)?];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error: std::io::Error| told("cannot read", &path, &error))?;
        self.counting.bytes_down.fetch_add(bytes.len() as u64, Relaxed);
        Ok(bytes.into())
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Entry>, StoreError> {
        self.counting.lists.fetch_add(1, Relaxed);
        let mut entries = Vec::new();
        // Only the directory that the prefix names can have such keys.
        let within = prefix.rsplit_once('/').map_or("", |(within, _)| within);
        if !within.is_empty() && !is_key(within) {
            return Ok(entries);
        }
        let start = if within.is_empty() { self.root.clone() } else { self.root.join(within) };
        self.walk(&start, within, &mut entries)?;
        entries.retain(|entry| {
            entry.key.starts_with(prefix) && after.is_none_or(|after| entry.key.as_str() > after)
        });
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    fn walk(&self, directory: &Path, key: &str, entries: &mut Vec<Entry>) -> Result<(), StoreError> {
        let failed = |error: &std::io::Error| told("cannot list", directory, error);
        let files = match fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            files => files.map_err(|error| failed(&error))?,
        };
        for file in files {
            let file = file.map_err(|error| failed(&error))?;
            let Ok(name) = file.file_name().into_string() else { continue };
            // What is deleted meanwhile is not there.
            let metadata = match file.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata.map_err(|error| failed(&error))?,
            };
            let changed = metadata.modified().ok();
            if name.starts_with('.') {
                let old =
                    |changed| SystemTime::now().duration_since(changed).is_ok_and(|age| age > ABANDONED);
                if name.starts_with(NEW) && changed.is_some_and(old) {
                    let _ = fs::remove_file(file.path()); // it only takes room
                }
                continue;
            }
            let key = if key.is_empty() { name } else { format!("{key}/{name}") };
            if metadata.is_dir() {
                self.walk(&file.path(), &key, entries)?;
            } else if metadata.is_file() {
                entries.push(Entry { key, size: metadata.len(), changed });
            }
        }
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.counting.deletes.fetch_add(1, Relaxed);
        let failed = |error: &std::io::Error| told("cannot delete", &path, error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        let mut directory = path.parent();
        while let Some(this) = directory.filter(|this| this.starts_with(&self.root)) {
            // Its last file is gone: fails if that is not so.
            if this != self.root && fs::remove_dir(this).is_ok() {
                directory = this.parent();
                continue;
            }
            match sync(this) {
                Err(error) if error.kind() == ErrorKind::NotFound => directory = this.parent(),
                synced => return synced.map_err(|error| failed(&error)),
            }
        }
        Ok(())
    }
}

fn write(path: &Path, body: &[Bytes]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut slices: Vec<_> = body.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = slices.as_mut_slice();
    // write_all_vectored of the standard library is not stable.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(&left[..left.len().min(1024)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_all()
}

fn sync(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

fn told(what: &str, path: &Path, error: &std::io::Error) -> StoreError {
    let kind = match error.kind() {
        ErrorKind::NotFound => StoreErrorKind::NotFound,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidInput
        | ErrorKind::Unsupported => StoreErrorKind::Refused,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind, format!("{what} {}: {error}", path.display()))
}

impl Store for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, key: &str, body: Vec<Bytes>) -> Answer<Created> {
        let key = key.to_owned();
        self.run(move |shared| shared.create(&key, &body))
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Answer<Bytes> {
        let key = key.to_owned();
        self.run(move |shared| shared.get(&key, range))
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<Entry>> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(move |shared| shared.list(&prefix, after.as_deref()))
    }

    fn delete(&self, keys: Vec<String>) -> Answer<()> {
        self.run(move |shared| keys.iter().try_for_each(|key| shared.delete(key)))
    }

    fn counters(&self) -> StoreCounters {
        self.shared.counting.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let parent = tempfile::tempdir().unwrap();
        let address = Address::parse(&format!("file://{}/disk", parent.path().display())).unwrap();
        let directory = Directory::open(&address).unwrap();
        (parent, directory)
    }

    fn body(text: &str) -> Vec<Bytes> {
        text.split('|').map(|part| Bytes::copy_from_slice(part.as_bytes())).collect()
    }

    fn keys(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.key.as_str()).collect()
    }

    #[tokio::test]
    async fn objects_are_created_once_read_listed_and_deleted() {
        let (parent, store) = directory();
        assert_eq!(store.create("log/1/a", body("|one|two||")).await, Ok(Created::Won));
        assert_eq!(store.create("log/1/a", body("other")).await, Ok(Created::Exists));
        assert_eq!(store.create("log/10", body("")).await, Ok(Created::Won));
        assert_eq!(store.create("volume.json", body("{}")).await, Ok(Created::Won));
        assert_eq!(store.get("log/1/a", None).await.unwrap(), "onetwo");
        assert_eq!(store.get("log/1/a", Some(2..4)).await.unwrap(), "et");
        assert_eq!(store.get("log/1/a", Some(4..99)).await.unwrap(), "wo");
        assert_eq!(store.get("log/1/a", Some(98..99)).await.unwrap(), "");
        assert_eq!(store.get("log/2", None).await.unwrap_err().kind, StoreErrorKind::NotFound);
        let all = store.list("", None).await.unwrap();
        assert_eq!(keys(&all), ["log/1/a", "log/10", "volume.json"]);
        assert_eq!(all[0].size, 6);
        assert_eq!(keys(&store.list("log/1", None).await.unwrap()), ["log/1/a", "log/10"]);
        assert_eq!(keys(&store.list("log/", Some("log/1/a")).await.unwrap()), ["log/10"]);
        assert_eq!(keys(&store.list("none/x", None).await.unwrap()), [""; 0]);
        store.delete(vec!["log/1/a".into(), "never".into(), "log/10".into()]).await.unwrap();
        store.delete(vec!["log/1/a".into()]).await.unwrap();
        assert_eq!(keys(&store.list("", None).await.unwrap()), ["volume.json"]);
        assert_eq!(fs::read_dir(parent.path().join("disk")).unwrap().count(), 1, "empty directories go away");
        let counters = store.counters();
        assert_eq!((counters.puts, counters.gets, counters.lists, counters.deletes), (4, 5, 5, 4));
        assert_eq!((counters.bytes_up, counters.bytes_down, counters.failures), (13, 10, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_creators_one_wins_while_others_delete() {
        let (_parent, store) = directory();
        let store = Arc::new(store);
        for round in 0..40 {
            let key = format!("deep/{round}/key");
            let tasks: Vec<_> = (0..8)
                .map(|creator| {
                    let (store, key) = (store.clone(), key.clone());
                    tokio::spawn(async move {
                        // The directory of another round comes and goes meanwhile.
                        let _ = store.create("deep/other/x", body("x")).await;
                        store.delete(vec!["deep/other/x".into()]).await.unwrap();
                        store.create(&key, body(&creator.to_string())).await
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for (creator, task) in tasks.into_iter().enumerate() {
                if task.await.unwrap().unwrap() == Created::Won {
                    winners.push(creator.to_string());
                }
            }
            assert_eq!(winners.len(), 1);
            assert_eq!(store.get(&key, None).await.unwrap(), winners[0]);
        }
    }

    #[tokio::test]
    async fn what_was_never_finished_is_no_object_and_goes_away() {
        let (parent, store) = directory();
        store.create("a", body("a")).await.unwrap();
        let (old, young) = (parent.path().join("disk/.new-1-1"), parent.path().join("disk/.new-1-2"));
        fs::write(&young, "half").unwrap();
        fs::write(&old, "half").unwrap();
        File::options().write(true).open(&old).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(keys(&store.list("", None).await.unwrap()), ["a"]);
        assert!(!old.exists() && young.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_is_said_in_one_line() {
        let (parent, store) = directory();
        fs::write(parent.path().join("file"), "").unwrap();
        for url in ["/file", "/none/disk"] {
            let address = Address::parse(&format!("file://{}{url}", parent.path().display())).unwrap();
            assert!(Directory::open(&address).is_err(), "{url}");
        }
        assert_eq!(store.create("../file", body("")).await.unwrap_err().kind, StoreErrorKind::Refused);
        store.create("a", body("")).await.unwrap();
        assert_eq!(store.create("a/b", body("")).await.unwrap_err().kind, StoreErrorKind::Refused);
        assert!(store.counters().failures >= 1);
    }
}
