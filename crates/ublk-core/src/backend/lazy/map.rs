//! Which chunks of a lazy disk are present: a bit each, in memory or in a file that outlives process and machine.
//!
//! The file has a page of header and then two tables of bits. `live` is mapped: it is always right, and as the
//! page cache outlives a process that is killed, so does it. The machine's end it survives in no known order with
//! the data, so after a boot `saved` counts: it is written by [`Map::save`] alone, after the data was made durable.

use crate::claim::{self, Place, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PAGE: usize = 4096;
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

/// See the [module](self).
pub struct Map {
    size: u64,
    chunk: u64,
    /// The table `live`.
    bits: Mapping,
    kept: Option<Kept>,
}

/// What makes a map outlive the process.
struct Kept {
    /// Its lock is held from the opening on, since the map is read then, until the disk is closed.
    file: File,
    path: PathBuf,
    /// By page of the table: whether it has bits that `saved` lacks.
    dirty: Box<[AtomicBool]>,
    /// Whether a save is under way, whose bits are not dirty any more.
    saving: AtomicBool,
}

fn pages(identity: &Identity) -> usize {
    identity.size.div_ceil(identity.chunk).div_ceil(BITS_PER_PAGE) as usize
}

impl Map {
    /// A map in memory, in which every chunk is missing.
    pub fn volatile(size: u64, chunk: u64) -> Result<Self> {
        let identity = Identity { size, chunk, name: String::new() };
        let bits = Mapping::anonymous(pages(&identity).max(1) * PAGE)
            .map_err(|error| Error::system("cannot map memory for the chunks' map", &error))?;
        Ok(Self { size, chunk, bits, kept: None })
    }

    /// The map in a file of its own, which is made if it is not there. With `afresh`, every chunk is missing
    /// whatever the file says.
    pub fn open(path: &Path, identity: &Identity, afresh: bool) -> Result<Self> {
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
            .open(path)
            .map_err(system)?;
        claim::keep(path, &file).map_err(|error| error.hint("a cache serves one disk at a time"))?;
        let tables = pages(identity) * PAGE;
        let found = file.metadata().map_err(system)?.len();
        let boot = boot_id().map_err(system)?;
        if afresh || found == 0 {
            file.set_len(0).map_err(system)?;
            allocate(&file, PAGE + 2 * tables).map_err(system)?;
            file.write_all_at(&header(identity, &boot), 0).map_err(system)?;
            // A map that is lost with the power would have what was written to the disk fetched over.
            file.sync_all().and_then(|()| sync_parent(path)).map_err(system)?;
        } else {
            let mut page = [0; PAGE];
            file.read_exact_at(&mut page, 0).map_err(system)?;
            if found != (PAGE + 2 * tables) as u64 || page != header(identity, stored_boot(&page)) {
                let what = if page.starts_with(MAGIC) { "is of another disk" } else { "is no map of ours" };
                return Err(Error::new(ErrorKind::Backend, format!("the map {name} {what}"))
                    .hint("remove it and the cache it belongs to, or use another cache"));
            }
            if *stored_boot(&page) != boot {
                copy(&file, PAGE, PAGE + tables, tables).map_err(system)?;
                file.write_all_at(&header(identity, &boot), 0).map_err(system)?;
            }
        }
        let bits = Mapping::shared(&file, PAGE + tables, tables).map_err(system)?;
        // What `saved` lacks is not known any more: the first save finds out.
        let dirty = (0..tables / PAGE).map(|_| AtomicBool::new(true)).collect();
        let kept = Kept { file, path: path.to_owned(), dirty, saving: AtomicBool::new(false) };
        Ok(Self { size: identity.size, chunk: identity.chunk, bits, kept: Some(kept) })
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

    /// Its file, if it has one. That is claimed already.
    pub fn place(&self) -> Option<Place<'_>> {
        let Kept { file, path, .. } = self.kept.as_ref()?;
        Some(Place { role: Role::Map, path, file, writable: true, claimed: false })
    }

    /// The disk is closed: another one may have the file, though somebody still holds this map.
    pub fn let_go(&self) {
        if let Some(kept) = &self.kept {
            claim::let_go(&kept.file);
        }
    }

    /// Whether a chunk is present.
    pub fn has(&self, chunk: u64) -> bool {
        self.word(chunk / 64).load(Ordering::Acquire) & (1 << (chunk % 64)) != 0
    }

    /// Whether all of some chunks are present.
    pub fn has_all(&self, chunks: Range<u64>) -> bool {
        chunks.into_iter().all(|chunk| self.has(chunk))
    }

    /// A chunk is present from here on.
    pub fn set(&self, chunk: u64) {
        self.word(chunk / 64).fetch_or(1 << (chunk % 64), Ordering::Release);
        if let Some(kept) = &self.kept {
            // After the bit: a save that clears this has seen it.
            kept.dirty[(chunk / BITS_PER_PAGE) as usize].store(true, Ordering::SeqCst);
        }
    }

    /// Whether it knows of chunks that it would have forgotten after a power failure.
    pub fn unsaved(&self) -> bool {
        // In this order: a save is under way before it cleans anything.
        self.kept.as_ref().is_some_and(|kept| {
            kept.dirty.iter().any(|page| page.load(Ordering::SeqCst)) || kept.saving.load(Ordering::SeqCst)
        })
    }

    /// Makes durable what is present, after `sync` did so with its data. One thread at a time.
    pub fn save(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let Some(kept) = &self.kept else { return sync() };
        kept.saving.store(true, Ordering::SeqCst);
        // Bits that come from here on are the next save's: their data may not be part of this sync.
        let pages: Vec<_> = (0..kept.dirty.len())
            .filter(|&page| kept.dirty[page].swap(false, Ordering::SeqCst))
            .map(|page| (page, self.page(page)))
            .collect();
        let saved = sync().and_then(|()| {
            for (page, bits) in &pages {
                kept.file.write_all_at(bits, (PAGE + page * PAGE) as u64)?;
            }
            if pages.is_empty() { Ok(()) } else { kept.file.sync_data() }
        });
        if saved.is_err() {
            pages.iter().for_each(|(page, _)| kept.dirty[*page].store(true, Ordering::SeqCst));
        }
        kept.saving.store(false, Ordering::SeqCst);
        saved
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let words = PAGE as u64 / 8;
        let first = page as u64 * words;
        (first..first + words).flat_map(|at| self.word(at).load(Ordering::Acquire).to_ne_bytes()).collect()
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        let at = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
        assert!(at + 8 <= self.bits.length());
        // SAFETY: in bounds by the assertion, aligned since the mapping starts a page; only ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.bits.at(at).cast()) }
    }
}

/// Everything but the boot's id says what the map is of.
fn header(identity: &Identity, boot: &[u8; 36]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..16].copy_from_slice(MAGIC);
    for (at, number) in [VERSION, identity.size, identity.chunk, u64::from(cfg!(target_endian = "big"))]
        .into_iter()
        .enumerate()
    {
        page[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
    }
    page[BOOT].copy_from_slice(boot);
    page[256..256 + identity.name.len()].copy_from_slice(identity.name.as_bytes());
    page
}

/// Where the header has the id of the boot in which `live` was used.
const BOOT: Range<usize> = 64..100;

fn stored_boot(page: &[u8; PAGE]) -> &[u8; 36] {
    page[BOOT].try_into().unwrap_or(&[0; 36])
}

fn boot_id() -> io::Result<[u8; 36]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().as_bytes().try_into().map_err(|_| io::Error::other("the boot has no id"))
}

/// Room on the disk beforehand: a mapped page that gets none would end the process.
fn allocate(file: &File, length: usize) -> io::Result<()> {
    nix::fcntl::posix_fallocate(file, 0, length as libc::off_t).map_err(io::Error::from)
}

/// Makes durable that the file is there.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
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
            Map::open(&self.0, &identity(), false)
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

    #[test]
    fn a_process_is_outlived_by_all_and_a_boot_by_what_was_saved() {
        let place = Place::new("lives");
        let map = place.open().unwrap();
        map.save(|| Ok(())).unwrap();
        assert!(!map.unsaved());
        map.set(1);
        map.set(20_000);
        assert!(map.unsaved());
        map.save(|| {
            map.set(2); // comes too late for this save
            Ok(())
        })
        .unwrap();
        assert!(map.unsaved());
        drop(map);
        let map = place.open().unwrap();
        assert!(map.has(1) && map.has(2) && map.has(20_000) && !map.has(3));
        drop(map);
        place.reboot();
        let map = place.open().unwrap();
        assert!(map.has(1) && !map.has(2) && map.has(20_000));
    }

    #[test]
    fn a_save_whose_data_is_not_durable_saves_nothing() {
        let place = Place::new("sync");
        let map = place.open().unwrap();
        map.set(5);
        assert!(map.save(|| Err(io::Error::other("no"))).is_err());
        assert!(map.unsaved());
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
            assert!(Map::open(&place.0, &other, false).err().unwrap().message.contains("another disk"));
        }
        std::fs::write(&place.0, vec![7; 20_000]).unwrap();
        assert!(place.open().err().unwrap().message.contains("no map of ours"));
        assert!(!Map::open(&place.0, &identity(), true).unwrap().has(0));
    }
}
