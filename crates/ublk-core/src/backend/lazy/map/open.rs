//! Opens a map: finds out which chunks count, after a boot, a crash, or a server that was killed.

use super::format::{PAGE, Stamp, check, header, read, tables_of, words, write, write_all, write_both};
use super::{Found, Identity, Kept, MOST_NAME, Map, MapFile, chunks, pages};
use crate::backend::bits::Bits;
use crate::backend::map_file::{allocate, blank, sync_parent};
use crate::backend::new_file::NewFile;
use crate::claim;
use crate::error::{Error, ErrorKind, Result};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

fn bits(bytes: usize) -> Result<Bits> {
    Bits::new(bytes).map_err(|error| Error::system("cannot map memory for the chunks' map", &error))
}

impl Map {
    /// A map in memory, in which every chunk is missing.
    pub fn volatile(size: u64, chunk: u64) -> Result<Self> {
        let identity = Identity { size, chunk, name: String::new() };
        Ok(Self { size, chunk, live: bits(pages(&identity).max(1) * PAGE)?, dirty: None, kept: None })
    }

    /// The same for a bounded cache.
    pub fn volatile_bounded(size: u64, chunk: u64) -> Result<Self> {
        let map = Self::volatile(size, chunk)?;
        Ok(Self { dirty: Some(bits(map.live.words() * 8)?), ..map })
    }

    /// The map in a file of its own, which is created if it does not exist. `found`: the state of its storage.
    pub fn open(path: &Path, identity: &Identity, found: Found) -> Result<Self> {
        Self::open_as(path, identity, found, false)
    }

    /// The same for a bounded cache.
    pub fn open_bounded(path: &Path, identity: &Identity, found: Found) -> Result<Self> {
        Self::open_as(path, identity, found, true)
    }

    fn open_as(path: &Path, identity: &Identity, found: Found, bounded: bool) -> Result<Self> {
        let name = path.display();
        if identity.name.len() > MOST_NAME {
            return Err(Error::invalid(format!("the identity is longer than {MOST_NAME} bytes")));
        }
        let system = |error: io::Error| {
            Error::system(format!("cannot use the map {name}"), &error).kind(ErrorKind::Backend)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK); // do not wait for a FIFO's writer
        let (file, new) = NewFile::open_or_create(&options, path).map_err(system)?;
        if !file.metadata().map_err(system)?.is_file() {
            return Err(Error::new(ErrorKind::Backend, format!("the map {name} is no regular file")));
        }
        Self::load(MapFile { file: Arc::new(file), path: path.to_owned() }, identity, found, bounded, new)
    }

    /// The map as it is now, after this process has [let go](Self::let_go) of its file: another one may have changed it.
    pub fn again(&self) -> Result<Self> {
        let Some(Kept { on, identity, .. }) = &self.kept else {
            return Err(Error::invalid("the map is in memory"));
        };
        Self::load(on.clone(), identity, Found::Used, self.is_bounded(), NewFile::default())
            .inspect_err(|_| self.let_go())
    }

    fn load(on: MapFile, identity: &Identity, found: Found, bounded: bool, new: NewFile) -> Result<Self> {
        let MapFile { file, path } = &on;
        let name = path.display();
        let system = |error: io::Error| {
            Error::system(format!("cannot use the map {name}"), &error).kind(ErrorKind::Backend)
        };
        on.lock()?;
        claim::still_there(path, file)?;
        let tables = pages(identity) * PAGE;
        let (live, saved, dirty) = (bits(tables)?, bits(tables)?, bits(tables)?);
        let stamp = Stamp::now(file).map_err(system)?;
        let length = PAGE + tables_of(bounded) * tables;
        if found == Found::New || blank(file, length).map_err(system)? {
            if found == Found::Used {
                return Err(Error::new(
                    ErrorKind::Backend,
                    format!("the map {name} is empty, but its cache is not"),
                )
                .hint("it says what the cache holds, which may be written data: restore it, or use another cache"));
            }
            file.set_len(0).map_err(system)?;
            allocate(file, length).map_err(system)?;
            file.write_all_at(&header(identity, bounded, &stamp), 0).map_err(system)?;
            // A map that is lost with the power would have what was written to the disk fetched over.
            file.sync_all().and_then(|()| sync_parent(path)).map_err(system)?;
        } else {
            let before = check(file, path, identity, bounded, tables)?;
            // Whatever the file says of chunks that the disk does not have.
            let read = |at, table: &Bits| {
                read(file, at, table).map(|()| table.truncate(chunks(identity))).map_err(system)
            };
            read(PAGE, &saved)?;
            if bounded {
                read(PAGE + 2 * tables, &dirty)?;
            }
            let vouched = before.vouches(&stamp);
            if bounded && !vouched && !before.closed {
                saved.keep(&dirty);
            }
            if !bounded {
                // An earlier process may have been killed before it synced the file.
                write(file, PAGE, &saved).and_then(|()| file.sync_data()).map_err(system)?;
            }
            if vouched {
                read(PAGE + tables, &live)?;
            } else {
                // The table before the header: it is not trusted until the header is written.
                write_all(file, PAGE + tables, &saved).map_err(system)?;
            }
            if before != stamp {
                file.write_all_at(&header(identity, bounded, &stamp), 0).map_err(system)?;
            }
        }
        let (written, lost, filed, loose) = (bits(tables)?, bits(tables)?, bits(tables)?, bits(tables)?);
        for word in 0..live.words() {
            let (saved, live) = (saved.word(word).load(SeqCst), &live.word(word));
            if saved != 0 {
                live.fetch_or(saved, SeqCst); // else its memory stays untouched
            }
            let live = live.load(SeqCst);
            if live != 0 {
                filed.word(word).store(live, SeqCst);
                // Without a bound it was not recorded which of these chunks a client wrote.
                let wrote = if bounded { dirty.word(word).load(SeqCst) } else { u64::MAX };
                written.word(word).store(live & !saved & wrote, SeqCst);
                loose.word(word).store(live & !saved, SeqCst);
            }
        }
        if bounded {
            dirty.keep(&live); // a write to a chunk that is missing did not happen
            write_all(file, PAGE + 2 * tables, &dirty)
                .and_then(|()| write_both(file, PAGE, &saved, &dirty))
                .and_then(|()| file.sync_data()) // chunks are evicted from here on
                .map_err(system)?;
        }
        let unsaved = (0..tables / PAGE)
            .map(|page| AtomicBool::new(words(page).any(|word| loose.word(word).load(SeqCst) != 0)))
            .collect();
        let kept = Kept {
            new,
            on,
            identity: identity.clone(),
            stamp,
            saved,
            written,
            lost,
            any_lost: AtomicBool::new(false),
            filed: Mutex::new(filed),
            unsaved,
            saving: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        let dirty = bounded.then_some(dirty);
        Ok(Self { size: identity.size, chunk: identity.chunk, live, dirty, kept: Some(kept) })
    }
}
