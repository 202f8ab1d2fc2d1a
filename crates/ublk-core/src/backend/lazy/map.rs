//! Which chunks of a lazy disk are present: bits in memory, and in a file that survives the process and a power failure.
//!
//! The file has a page of header and then two tables of bits, `saved` and `live`.
//!
//! **Order.** A chunk is present for a request only when its data is in the storage *and* its bit is in `live`: first
//! the data is written, then the bit in the file, then the bit in memory. Both writes are in the page cache when the
//! request is answered, and stay there if the process is killed: the next server finds every chunk for which a request
//! was answered. A process that dies between the two leaves data without a bit, which is fetched again.
//!
//! A power failure may keep either of data and `live` without the other, so after a boot `saved` counts, and `live`
//! begins as its copy. `saved` is written by [`Map::save`] alone: it copies the bits, syncs the data, then writes the
//! copied bits to `saved`, then syncs the file. Bits are only ever added to `saved`, so any part of such a write that
//! reaches the medium, even a torn page, names only chunks whose data is durable.
//!
//! `live` is trusted only in the boot, and on the mount of the file system, that it was written in (both are in the
//! header), and never again once a sync has failed: the kernel may have dropped data whose write-back failed, and
//! reports that once. That can affect the chunks that are present but not saved, which are known in memory: see
//! [`Map::forget`].
//!
//! The file is not mapped, so truncating it cannot crash the process. The tables in memory stay complete, and the next
//! save writes the file again from them.

use super::bits::{Bits, at};
use super::place;
use crate::claim::{self, Place, Role};
use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

const PAGE: usize = 4096;
const WORDS_PER_PAGE: usize = PAGE / 8;
const BITS_PER_PAGE: u64 = PAGE as u64 * 8;
const MAGIC: &[u8; 16] = b"ublk-ts lazy map";
const VERSION: u64 = 1;
/// The longest name of a disk's contents, in bytes.
const MOST_NAME: usize = 1024;

/// Which disk a map belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Of the disk, in bytes.
    pub size: u64,
    /// Of a chunk, in bytes: a power of two.
    pub chunk: u64,
    /// Of what the disk is filled with, such as a URL and a version: at most 1024 bytes.
    pub name: String,
}

/// The state in which the map's storage was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was just created: no chunk is present, whatever the map says.
    New,
    /// It holds no data: a map may mark chunks of zeroes as present; without a map nothing is lost.
    Empty,
    /// It holds data, so there has to be a map.
    Used,
}

/// See the [module](self).
pub struct Map {
    size: u64,
    chunk: u64,
    /// Chunks that are present.
    live: Bits,
    kept: Option<Kept>,
}

/// What makes a map outlive the process.
struct Kept {
    /// Locked from the moment it is opened, since the map is read then, until the disk is closed.
    file: File,
    path: PathBuf,
    identity: Identity,
    stamp: Stamp,
    /// Present chunks that survive a power failure.
    saved: Bits,
    /// Chunks that are present, not saved, and written by a client, so that they cannot be fetched again.
    written: Bits,
    /// Written chunks whose data may be lost.
    lost: Bits,
    any_lost: AtomicBool,
    /// The content of the file's table `live`; written with this locked.
    filed: Mutex<Bits>,
    /// By page of the table: whether it has bits that `saved` lacks.
    dirty: Box<[AtomicBool]>,
    /// Whether a save is under way, whose bits are not dirty any more.
    saving: AtomicBool,
    /// A sync has failed: nothing more is saved.
    failed: AtomicBool,
}

/// The boot and mount in which `live` is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    boot: [u8; 36],
    /// See [`place::of`]; 0 if unknown.
    place: u64,
}

impl Stamp {
    /// Matches no boot.
    const NEVER: Self = Self { boot: [0; 36], place: 0 };

    fn now(file: &File) -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot = text.trim().as_bytes().try_into().map_err(|_| io::Error::other("the boot has no id"))?;
        Ok(Self { boot, place: place::of(file) })
    }

    fn stored(page: &[u8; PAGE]) -> Self {
        let place = page[PLACE].try_into().map_or(0, u64::from_le_bytes);
        Self { boot: page[BOOT].try_into().unwrap_or([0; 36]), place }
    }

    /// Whether the page cache or medium still has all that was written under that stamp.
    fn vouches(&self, now: &Self) -> bool {
        self.boot == now.boot && (self.place == now.place || self.place == 0)
    }
}

fn pages(identity: &Identity) -> usize {
    identity.size.div_ceil(identity.chunk).div_ceil(BITS_PER_PAGE) as usize
}

fn bits(bytes: usize) -> Result<Bits> {
    Bits::new(bytes).map_err(|error| Error::system("cannot map memory for the chunks' map", &error))
}

impl Map {
    /// A map in memory, in which every chunk is missing.
    pub fn volatile(size: u64, chunk: u64) -> Result<Self> {
        let identity = Identity { size, chunk, name: String::new() };
        Ok(Self { size, chunk, live: bits(pages(&identity).max(1) * PAGE)?, kept: None })
    }

    /// The map in a file of its own, which is created if it does not exist. `found`: the state of its storage.
    pub fn open(path: &Path, identity: &Identity, found: Found) -> Result<Self> {
        let name = path.display();
        if identity.name.len() > MOST_NAME {
            return Err(Error::invalid(format!("the identity is longer than {MOST_NAME} bytes")));
        }
        let system = |error: io::Error| {
            Error::system(format!("cannot use the map {name}"), &error).kind(ErrorKind::Backend)
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK) // do not wait for a FIFO's writer
            .open(path)
            .map_err(system)?;
        if !file.metadata().map_err(system)?.is_file() {
            return Err(Error::new(ErrorKind::Backend, format!("the map {name} is no regular file")));
        }
        claim::keep(path, &file).map_err(|error| error.hint("a cache serves one disk at a time"))?;
        let tables = pages(identity) * PAGE;
        let (live, saved) = (bits(tables)?, bits(tables)?);
        let stamp = Stamp::now(&file).map_err(system)?;
        if found == Found::New || blank(&file).map_err(system)? {
            if found == Found::Used {
                return Err(Error::new(
                    ErrorKind::Backend,
                    format!("the map {name} is empty, but its cache is not"),
                )
                .hint("without it the content of the cache is unknown: remove both, or use another cache"));
            }
            file.set_len(0).map_err(system)?;
            allocate(&file, PAGE + 2 * tables).map_err(system)?;
            file.write_all_at(&header(identity, &stamp), 0).map_err(system)?;
            // A map that is lost with the power would have what was written to the disk fetched over.
            file.sync_all().and_then(|()| sync_parent(path)).map_err(system)?;
        } else {
            let before = check(&file, path, identity, tables)?;
            read(&file, PAGE, &saved).map_err(system)?;
            // An earlier process may have been killed before it synced the file.
            write(&file, PAGE, &saved).and_then(|()| file.sync_data()).map_err(system)?;
            if before.vouches(&stamp) {
                read(&file, PAGE + tables, &live).map_err(system)?;
                if before != stamp {
                    file.write_all_at(&header(identity, &stamp), 0).map_err(system)?;
                }
            } else {
                // The table first: it is not trusted until the header is written.
                copy(&file, PAGE, PAGE + tables, tables).map_err(system)?;
                file.write_all_at(&header(identity, &stamp), 0).map_err(system)?;
            }
        }
        let (written, lost, filed) = (bits(tables)?, bits(tables)?, bits(tables)?);
        for word in 0..live.words() {
            let (saved, live) = (saved.word(word).load(SeqCst), &live.word(word));
            live.fetch_or(saved, SeqCst);
            let live = live.load(SeqCst);
            if live != 0 {
                filed.word(word).store(live, SeqCst);
                // Which of these chunks a client wrote was not recorded.
                written.word(word).store(live & !saved, SeqCst);
            }
        }
        let dirty = (0..tables / PAGE)
            .map(|page| AtomicBool::new(words(page).any(|word| written.word(word).load(SeqCst) != 0)))
            .collect();
        let kept = Kept {
            file,
            path: path.to_owned(),
            identity: identity.clone(),
            stamp,
            saved,
            written,
            lost,
            any_lost: AtomicBool::new(false),
            filed: Mutex::new(filed),
            dirty,
            saving: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        Ok(Self { size: identity.size, chunk: identity.chunk, live, kept: Some(kept) })
    }

    /// Of the disk, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of a chunk, in bytes.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// Whether it outlives the process.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Its file, if it has one, which is locked already.
    pub fn place(&self) -> Option<Place<'_>> {
        let Kept { file, path, .. } = self.kept.as_ref()?;
        Some(Place { role: Role::Map, path, file, writable: true, claimed: false })
    }

    /// The disk is closed: unlocks the file for another disk, even if this map is still referenced.
    pub fn let_go(&self) {
        if let Some(kept) = &self.kept {
            claim::let_go(&kept.file);
        }
    }

    /// Whether a chunk is present.
    pub fn has(&self, chunk: u64) -> bool {
        self.live.has(chunk)
    }

    /// Whether all of some chunks are present.
    pub fn has_all(&self, chunks: Range<u64>) -> bool {
        self.live.has_all(chunks)
    }

    /// Whether no loss in the storage can affect these chunks: they are present, and saved if the map has a file.
    pub fn settled_all(&self, chunks: Range<u64>) -> bool {
        self.kept.as_ref().map_or(&self.live, |kept| &kept.saved).has_all(chunks)
    }

    /// Whether a chunk was written by a client or is saved, so that it is never fetched again.
    pub fn is_written(&self, chunk: u64) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.saved.has(chunk) || kept.written.has(chunk))
    }

    /// A client is about to write to a part of a chunk that is present.
    pub fn write(&self, chunk: u64) {
        if let Some(kept) = &self.kept {
            kept.written.set(chunk);
        }
    }

    /// Whether data written to a chunk may be lost.
    pub fn is_lost(&self, chunk: u64) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.any_lost.load(SeqCst) && kept.lost.has(chunk))
    }

    /// Whether that holds for any chunk.
    pub fn any_lost(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.any_lost.load(SeqCst))
    }

    /// Marks chunks as present in the file; their data is in the storage.
    pub fn file(&self, chunks: &[u64]) -> io::Result<()> {
        let (Some(kept), Some(first), Some(last)) = (&self.kept, chunks.iter().min(), chunks.iter().max())
        else {
            return Ok(());
        };
        if self.failed() {
            return Ok(()); // that table is never trusted again
        }
        let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        let range = at(*first)..at(*last) + 1;
        let before = filed.bytes(range.clone());
        chunks.iter().for_each(|chunk| filed.set(*chunk));
        let after = filed.bytes(range.clone());
        if before == after {
            return Ok(());
        }
        let offset = PAGE + kept.dirty.len() * PAGE + range.start * 8;
        kept.file.write_all_at(&after, offset as u64).inspect_err(|_| {
            // A part may be written already, which is harmless: it names chunks that are fetched again.
            range.clone().for_each(|word| filed.word(word).store(0, SeqCst));
            filed.fill(range.start, &before);
        })
    }

    /// Some chunks are present from here on, for which [`file`](Self::file) was called. `written`: a client wrote them.
    pub fn set(&self, chunks: &[u64], written: bool) {
        for &chunk in chunks {
            if let Some(kept) = &self.kept {
                if written {
                    kept.written.set(chunk);
                }
                kept.lost.clear(chunk);
            }
            self.live.set(chunk);
            if let Some(kept) = &self.kept {
                // After the bit: a save that clears this has seen it.
                kept.dirty[(chunk / BITS_PER_PAGE) as usize].store(true, SeqCst);
            }
        }
    }

    /// Whether it knows of chunks that it would have forgotten after a power failure.
    pub fn unsaved(&self) -> bool {
        // In this order: a save is under way before it cleans anything.
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.dirty.iter().any(|page| page.load(SeqCst)) || kept.saving.load(SeqCst))
    }

    /// Whether a sync has failed: later flushes make nothing durable.
    pub fn failed(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.failed.load(SeqCst))
    }

    /// Makes the bits of present chunks durable, after `sync` has made their data durable; then passes `publish` the
    /// update of the bits in memory. One thread at a time. If it fails, see [`forget`](Self::forget). Returns whether
    /// the file had been truncated and was written again.
    pub fn save(
        &self,
        sync: impl FnOnce() -> io::Result<()>,
        publish: impl FnOnce(&dyn Fn()) -> io::Result<()>,
    ) -> io::Result<bool> {
        let Some(kept) = &self.kept else { return sync().map(|()| false) };
        if self.failed() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        kept.saving.store(true, SeqCst);
        let saved = self.save_pages(kept, sync, publish);
        kept.saving.store(false, SeqCst);
        saved
    }

    fn save_pages(
        &self,
        kept: &Kept,
        sync: impl FnOnce() -> io::Result<()>,
        publish: impl FnOnce(&dyn Fn()) -> io::Result<()>,
    ) -> io::Result<bool> {
        let cut = kept.file.metadata()?.len() != (PAGE + 2 * kept.dirty.len() * PAGE) as u64;
        // Bits that come from here on are the next save's: their data may not be part of this sync.
        let pages: Vec<_> = (0..kept.dirty.len())
            .filter(|&page| kept.dirty[page].swap(false, SeqCst) || cut)
            .map(|page| (page, self.live.bytes(words(page))))
            .collect();
        sync()?;
        if cut {
            self.write_again(kept)?;
        }
        for (page, bits) in &pages {
            // Lost chunks must not be saved, but the rest of the page can be; there are none unless a sync failed.
            kept.file.write_all_at(bits, (PAGE + page * PAGE) as u64)?;
        }
        if !pages.is_empty() {
            kept.file.sync_data()?;
        }
        publish(&|| pages.iter().for_each(|(page, bits)| kept.saved.fill(page * WORDS_PER_PAGE, bits)))?;
        Ok(cut)
    }

    /// Writes header and `live` into a file that was truncated.
    fn write_again(&self, kept: &Kept) -> io::Result<()> {
        let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = kept.dirty.len() * PAGE;
        allocate(&kept.file, PAGE + 2 * tables)?;
        kept.file.set_len((PAGE + 2 * tables) as u64)?;
        kept.file.write_all_at(&filed.bytes(0..filed.words()), (PAGE + tables) as u64)?;
        kept.file.write_all_at(&header(&kept.identity, &kept.stamp), 0)
    }

    /// A sync or write-back has failed: chunks that are present but not saved may be gone. Those that were only fetched
    /// are missing again; those that clients wrote are lost. From here on nothing is saved, and the file's `live` is
    /// not trusted again: the next server begins with the saved chunks. On an error the file could not be changed, and
    /// `live` may still be trusted.
    pub fn forget(&self) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let mut told = Ok(());
        if !kept.failed.swap(true, SeqCst) {
            // With the table locked, so that no thread is writing to it.
            let _filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
            told = kept.file.write_all_at(&header(&kept.identity, &Stamp::NEVER), 0);
        }
        for word in 0..self.live.words() {
            let unsaved = self.live.word(word).load(SeqCst) & !kept.saved.word(word).load(SeqCst);
            if unsaved == 0 {
                continue;
            }
            let written = unsaved & kept.written.word(word).load(SeqCst);
            if written != 0 {
                kept.any_lost.store(true, SeqCst);
                kept.lost.word(word).fetch_or(written, SeqCst);
            }
            self.live.word(word).fetch_and(!(unsaved & !written), SeqCst);
        }
        told
    }

    /// Its file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| &*kept.path)
    }
}

/// The words of a page of a table.
fn words(page: usize) -> Range<usize> {
    page * WORDS_PER_PAGE..(page + 1) * WORDS_PER_PAGE
}

/// Checks that the file is the map of that disk. Returns the stamp of its last use.
fn check(file: &File, path: &Path, identity: &Identity, tables: usize) -> Result<Stamp> {
    let name = path.display();
    let refused = |what: &str| {
        Error::new(ErrorKind::Backend, format!("the map {name} {what}"))
            .hint("remove it and the cache it belongs to, or use another cache")
    };
    let mut page = [0; PAGE];
    let length = file.metadata().map_or(0, |found| found.len());
    match file.read_exact_at(&mut page, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(refused("was truncated")),
        Err(error) => {
            return Err(Error::system(format!("cannot use the map {name}"), &error).kind(ErrorKind::Backend));
        }
        Ok(()) => {}
    }
    let stamp = Stamp::stored(&page);
    if !page.starts_with(MAGIC) {
        return Err(refused("is not a map of ublk-ts"));
    }
    if page[16..24] != VERSION.to_le_bytes() {
        return Err(refused("is of another version of ublk-ts"));
    }
    if page != header(identity, &stamp) {
        return Err(refused("is of another disk"));
    }
    if length != (PAGE + 2 * tables) as u64 {
        return Err(refused("has the wrong size"));
    }
    Ok(stamp)
}

/// Everything but the stamp identifies the disk.
fn header(identity: &Identity, stamp: &Stamp) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..16].copy_from_slice(MAGIC);
    for (at, number) in [VERSION, identity.size, identity.chunk, u64::from(cfg!(target_endian = "big"))]
        .into_iter()
        .enumerate()
    {
        page[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
    }
    page[BOOT].copy_from_slice(&stamp.boot);
    page[PLACE].copy_from_slice(&stamp.place.to_le_bytes());
    page[256..256 + identity.name.len()].copy_from_slice(identity.name.as_bytes());
    page
}

/// Where the header has the id of the boot in which `live` was used.
const BOOT: Range<usize> = 64..100;
/// The position of the mount's number.
const PLACE: Range<usize> = 104..112;

/// Whether a file has no header: it is empty or all zeroes, since its creator died before it wrote one.
fn blank(file: &File) -> io::Result<bool> {
    let (mut bytes, mut offset) = (vec![0; 1 << 16], 0);
    loop {
        match file.read_at(&mut bytes, offset)? {
            0 => return Ok(true),
            count if bytes[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            count => offset += count as u64,
        }
    }
}

/// Allocates the file's blocks now: if a later write found no space, its request would fail.
fn allocate(file: &File, length: usize) -> io::Result<()> {
    match nix::fcntl::posix_fallocate(file, 0, length as libc::off_t) {
        Err(nix::Error::EOPNOTSUPP | nix::Error::EINVAL) => file.set_len(length as u64),
        done => done.map_err(io::Error::from),
    }
}

/// Makes durable that the file is there.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn read(file: &File, from: usize, table: &Bits) -> io::Result<()> {
    let mut page = [0; PAGE];
    for word in (0..table.words()).step_by(WORDS_PER_PAGE) {
        file.read_exact_at(&mut page, (from + word * 8) as u64)?;
        table.fill(word, &page);
    }
    Ok(())
}

/// Its pages that are not all zeroes.
fn write(file: &File, to: usize, table: &Bits) -> io::Result<()> {
    for page in 0..table.words() / WORDS_PER_PAGE {
        let bytes = table.bytes(words(page));
        if bytes.iter().any(|byte| *byte != 0) {
            file.write_all_at(&bytes, (to + page * PAGE) as u64)?;
        }
    }
    Ok(())
}

fn copy(file: &File, from: usize, to: usize, length: usize) -> io::Result<()> {
    let mut page = [0; PAGE];
    for at in (0..length).step_by(PAGE) {
        file.read_exact_at(&mut page, (from + at) as u64)?;
        file.write_all_at(&page, (to + at) as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { size: 100 << 20, chunk: 4096, name: "image 1".into() }
    }

    struct Place(std::path::PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("ublk-map-{}-{name}", std::process::id())))
        }

        fn open(&self) -> Result<Map> {
            Map::open(&self.0, &identity(), Found::Empty)
        }

        /// As if the machine had been booted again.
        fn reboot(&self) {
            let file = OpenOptions::new().write(true).open(&self.0).unwrap();
            file.write_all_at(&[b'x'; 36], BOOT.start as u64).unwrap();
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// The same steps as a fetch and a save.
    fn add(map: &Map, chunks: &[u64]) {
        map.file(chunks).unwrap();
        map.set(chunks, false);
    }

    fn save(map: &Map, sync: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
        map.save(sync, |publish| {
            publish();
            Ok(())
        })
    }

    #[test]
    fn a_process_is_outlived_by_all_and_a_boot_by_what_was_saved() {
        let place = Place::new("lives");
        let map = place.open().unwrap();
        save(&map, || Ok(())).unwrap();
        assert!(!map.unsaved());
        add(&map, &[1, 20_000]);
        assert!(map.unsaved() && map.has_all(1..2) && !map.settled_all(1..2));
        save(&map, || {
            add(&map, &[2]); // too late for this save
            Ok(())
        })
        .unwrap();
        assert!(map.unsaved() && map.settled_all(1..2) && !map.settled_all(2..3));
        drop(map);
        let map = place.open().unwrap();
        assert!(map.has(1) && map.has(2) && map.has(20_000) && !map.has(3));
        assert!(map.unsaved() && !map.settled_all(1..3));
        drop(map);
        place.reboot();
        let map = place.open().unwrap();
        assert!(map.has(1) && !map.has(2) && map.has(20_000));
        assert!(!map.unsaved() && map.settled_all(1..2));
    }

    #[test]
    fn a_save_whose_data_is_not_durable_saves_nothing() {
        let place = Place::new("sync");
        let map = place.open().unwrap();
        add(&map, &[5]);
        assert!(save(&map, || Err(io::Error::other("no"))).is_err());
        drop(map);
        place.reboot();
        assert!(!place.open().unwrap().has(5));
    }

    #[test]
    fn the_map_of_another_disk_is_refused_and_so_is_a_second_user() {
        let place = Place::new("other");
        let map = place.open().unwrap();
        assert!(place.open().err().unwrap().message.contains("in use"));
        drop(map);
        for other in [
            Identity { size: 99 << 20, ..identity() },
            Identity { chunk: 8192, ..identity() },
            Identity { name: "image 2".into(), ..identity() },
        ] {
            assert!(Map::open(&place.0, &other, Found::Used).err().unwrap().message.contains("another disk"));
        }
        std::fs::write(&place.0, vec![7; 20_000]).unwrap();
        assert!(place.open().err().unwrap().message.contains("not a map of ublk-ts"));
        assert!(!Map::open(&place.0, &identity(), Found::New).unwrap().has(0));
    }

    #[test]
    fn a_map_that_says_nothing_is_refused_for_a_cache_that_holds_data() {
        let place = Place::new("blank");
        for bytes in [vec![], vec![0; 30_000]] {
            std::fs::write(&place.0, bytes).unwrap();
            let refused = Map::open(&place.0, &identity(), Found::Used).err().unwrap();
            assert!(refused.message.contains("is empty, but its cache is not"), "{refused}");
            assert!(!place.open().unwrap().has(0), "nothing is lost without it where there is nothing");
        }
        std::fs::remove_file(&place.0).unwrap();
        assert!(Map::open(&place.0, &identity(), Found::Used).is_err());
    }

    #[test]
    fn a_map_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new("mode");
        // SAFETY: changes the umask of this process. Other tests do not depend on it.
        let before = unsafe { libc::umask(0) };
        let map = place.open().unwrap();
        // SAFETY: as above.
        unsafe { libc::umask(before) };
        assert_eq!(std::fs::metadata(&place.0).unwrap().permissions().mode() & 0o777, 0o600);
        drop(map);
    }

    #[test]
    fn a_map_that_is_cut_short_in_use_is_whole_again_after_the_next_save() {
        for length in [0, 100, 4096, 6000] {
            let place = Place::new("cut");
            let map = place.open().unwrap();
            add(&map, &[1, 20_000]);
            save(&map, || Ok(())).unwrap();
            add(&map, &[2]);
            OpenOptions::new().write(true).open(&place.0).unwrap().set_len(length).unwrap();
            assert!(map.has(1) && map.has(2) && map.has(20_000));
            add(&map, &[3]);
            assert!(save(&map, || Ok(())).unwrap(), "it is told");
            assert!(!save(&map, || Ok(())).unwrap(), "once");
            drop(map);
            let map = place.open().unwrap();
            assert!([1, 2, 3, 20_000].iter().all(|chunk| map.has(*chunk)));
            drop(map);
            place.reboot();
            let map = place.open().unwrap();
            assert!([1, 2, 3, 20_000].iter().all(|chunk| map.has(*chunk)));
        }
    }

    #[test]
    fn live_is_trusted_only_where_it_was_written() {
        let place = Place::new("place");
        let map = place.open().unwrap();
        add(&map, &[1]);
        save(&map, || Ok(())).unwrap();
        add(&map, &[2]);
        drop(map);
        let stamp = |bytes: [u8; 8]| {
            let file = OpenOptions::new().write(true).open(&place.0).unwrap();
            file.write_all_at(&bytes, PLACE.start as u64).unwrap();
        };
        stamp([0; 8]); // from a version without mount numbers
        assert!(place.open().unwrap().has(2));
        stamp(*b"replaced");
        let map = place.open().unwrap();
        assert!(map.has(1) && !map.has(2));
    }

    /// A file with arbitrary changes is refused, or gives a map that marks no chunk beyond those in the file.
    #[test]
    fn any_bytes_are_a_map_or_refused() {
        let place = Place::new("fuzz");
        let map = place.open().unwrap();
        add(&map, &[1, 2, 20_000]);
        save(&map, || Ok(())).unwrap();
        drop(map);
        let good = std::fs::read(&place.0).unwrap();
        let rounds =
            std::env::var("UBLK_TS_FUZZ").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3000);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        let (mut refused, mut opened) = (0, 0);
        for round in 0..rounds {
            let mut bytes = good.clone();
            match next(9) {
                0 => bytes.truncate(next(good.len())),
                1 => bytes.extend((0..next(9000)).map(|_| 0)),
                2 => bytes = (0..next(20_000)).map(|_| next(256) as u8).collect(),
                3 => bytes[16..24].copy_from_slice(&(next(5) as u64).to_le_bytes()),
                4 | 5 => {
                    (0..1 + next(40)).for_each(|_| bytes[PAGE + next(good.len() - PAGE)] = next(256) as u8)
                }
                6 => bytes[BOOT.start + next(PLACE.end - BOOT.start)] ^= 1 + next(255) as u8,
                _ => (0..1 + next(40)).for_each(|_| {
                    let at = if next(2) == 0 { next(PAGE) } else { next(good.len()) };
                    bytes[at] = next(256) as u8;
                }),
            }
            std::fs::write(&place.0, &bytes).unwrap();
            let found = [Found::Empty, Found::Used][next(2)];
            match Map::open(&place.0, &identity(), found) {
                Ok(map) => {
                    opened += 1;
                    let blank = bytes.iter().all(|byte| *byte == 0);
                    assert!(blank || bytes.len() == good.len(), "round {round}: {} bytes", bytes.len());
                    for chunk in 0..identity().size / identity().chunk {
                        let bit = |table: usize| {
                            let at = PAGE + table * (good.len() - PAGE) / 2 + chunk as usize / 8;
                            bytes.get(at).is_some_and(|byte| byte & (1 << (chunk % 8)) != 0)
                        };
                        assert!(!map.has(chunk) || bit(0) || bit(1), "round {round}: chunk {chunk}");
                        assert!(map.has(chunk) || !bit(0), "round {round}: chunk {chunk} was saved");
                    }
                    map.file(&[7]).unwrap();
                    map.set(&[7], true);
                    save(&map, || Ok(())).unwrap();
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind, ErrorKind::Backend, "{error}");
                    assert!(!error.message.contains('\n') && error.message.contains("the map "), "{error}");
                    assert_eq!(std::fs::read(&place.0).unwrap(), bytes, "a refused file is left unchanged");
                }
            }
        }
        assert!(refused > rounds / 10 && opened > rounds / 10, "{refused} refused, {opened} opened");
    }
}
