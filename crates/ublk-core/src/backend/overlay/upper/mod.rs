//! What was written to an overlay: a sparse file with the data, and with what says which of it counts.
//!
//! A sector is *present* once it was written. Three things say so, from the youngest to the oldest:
//!
//! - the index in memory, which is made of the others when the disk is opened;
//! - the *log* in the file, to which a write adds its range after its data and before it is answered. The log is in the page
//!   cache: it survives a kill of the server, and counts only in the boot, and on the mount, that it was written in;
//! - the *tables* in the file, which a save writes after it has synced the data that they name, and syncs then. They alone
//!   count after a power failure. So a sector that is present is never a hole: see [`store::Store::save`].
//!
//! Where zeroes were written, or the range was discarded, the sector is present and its data is a hole.
//!
//! The kernel may drop data that it could not write back, and reports that once. So after a failed sync nothing is saved any
//! more, the log does not count again, and the next server begins with the tables.
//!
//! The file is not mapped, so truncating it cannot crash the process.

mod chain;
mod file;
mod format;
mod log;
mod medium;
mod names;
mod put;
mod saver;
mod store;
mod tables;
#[cfg(test)]
mod tests;

use crate::backend::map_file::Stamp;
use crate::backend::new_file::NewFile;
use crate::claim::{self, Place, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Errno;
use crate::report::Reporter;
pub use chain::{MOST_LAYERS, Prepared, no_name};
use file::{admit, header_of, read, reopened, system};
pub use format::OF_DEVICE;
use format::{Header, State, refused};
use medium::Medium;
use names::New;
pub use put::{Copying, Put, is_name_of_commit, is_of_commit, name_of_commit};
pub use saver::Saved;
use saver::Saver;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use store::Store;

/// So many entries of the log are saved without a flush.
const MANY: u64 = 64 << 10;

/// Distinguishes an upper from all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Of no upper.
    pub const NONE: Self = Self([0; 16]);

    /// One that no other upper has.
    pub fn new() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let digits = text.trim().replace('-', "");
        let number = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// The layer below an upper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The layer's own.
    pub uuid: Uuid,
    /// The name of its file, in the upper's directory.
    pub name: String,
}

impl Parent {
    fn check(&self) -> Result<()> {
        let name = &*self.name;
        if name.is_empty() || name.len() > 255 || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(Error::invalid(format!("{name:?} is no name of a file"))
                .hint("the layers of a chain are in one directory"));
        }
        Ok(())
    }
}

/// The disk that an upper belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape<'a> {
    /// Of the disk, in bytes.
    pub size: u64,
    /// Of a block of the disk, in bytes.
    pub block_size: u32,
    /// Identifies the base, in words that a person can compare: at most 1024 bytes.
    pub base: &'a str,
    /// The layer below, if it is not the base itself.
    pub parent: Option<Parent>,
    /// Whether a new one needs no base, since the layer below does not.
    pub alone: bool,
    /// Whether one whose commit was interrupted is possible, too.
    pub committing: bool,
    /// Which file the base is, if the disk's bytes are at their own offsets in it.
    pub file: Option<u64>,
}

/// See the [module](self).
pub struct Upper {
    file: Arc<File>,
    /// Where it was opened.
    path: PathBuf,
    /// Its name since a snapshot.
    renamed: OnceLock<PathBuf>,
    read_only: bool,
    /// Its last server has lost data in this boot.
    lost: bool,
    store: Arc<Store<File>>,
    saver: Arc<Saver>,
}

impl Upper {
    /// A new one at a path where there is no file. If this process dies meanwhile, there is none either.
    pub fn create(path: &Path, shape: &Shape<'_>) -> Result<Self> {
        Self::create_at(path, path, shape, None)
    }

    /// The same, for an upper that will be at `path` when it has exchanged its name with another file. `before`: what its
    /// disk's upper says until then, if there is one.
    fn create_at(at: &Path, path: &Path, shape: &Shape<'_>, before: Option<&Header>) -> Result<Self> {
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::EEXIST) => {
                refused(at, "exists already").hint("open it, or name a file that does not exist yet")
            }
            Some(libc::EFBIG) => refused(at, format!("cannot have {} bytes", shape.size)).hint(
                "its file system has no files of that size: use another file system, or a smaller disk",
            ),
            _ => Error::system(format!("cannot make the upper {}", at.display()), &error)
                .kind(ErrorKind::Backend),
        };
        let mut header = Header::new(shape, Uuid::new().map_err(failed)?, Stamp { boot: [0; 36], place: 0 })?;
        if let Some(before) = before {
            (header.disk, header.into, header.partly) = (before.disk, before.into, before.partly);
        }
        if at.symlink_metadata().is_ok() {
            return Err(failed(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let new = New::beside(at).map_err(failed)?;
        claim::keep(at, &new.file)?;
        let made = Stamp::now(&new.file).and_then(|stamp| {
            header.stamp = stamp;
            Store::create(reopened(&new.file)?, header)
        });
        let store = match made {
            Ok(store) => store,
            Err(error) => {
                new.discard();
                return Err(failed(error));
            }
        };
        let file = new.publish(at).map_err(failed)?;
        Ok(Self::of(file, path, store, false, false))
    }

    /// It was created for a disk that may not come.
    pub fn is_new(&self) -> Result<NewFile> {
        NewFile::at(&self.path, &self.file).map_err(|error| system(&self.path, &error))
    }

    /// The same, for a disk that opens it anew.
    pub fn is_new_for_another(&self) -> Result<NewFile> {
        let again = reopened(&self.file).and_then(|file| NewFile::at(&self.path, &file));
        again.map_err(|error| system(&self.path, &error))
    }

    /// One that exists. `read_only`: it is not changed, and shared with others that do not change it.
    pub fn open(path: &Path, shape: &Shape<'_>, read_only: bool) -> Result<Self> {
        Self::open_as(path, shape, read_only, false)
    }

    /// `layer`: it is below another upper.
    fn open_as(path: &Path, shape: &Shape<'_>, read_only: bool, layer: bool) -> Result<Self> {
        let (file, header) = read(path, !read_only, layer)?;
        admit(&header, path, shape, read_only, layer)?;
        let failed = |error| system(path, &error);
        let claim = if read_only { claim::share } else { claim::keep };
        claim(path, &file).map_err(|error| error.hint("an upper serves one disk at a time"))?;
        claim::still_there(path, &file)?;
        // Again, since its last user may have changed it until then.
        let header = header_of(&file, path)?;
        admit(&header, path, shape, read_only, layer)?;
        let stamp = Stamp::now(&file).map_err(failed)?;
        let medium = if read_only { file.try_clone() } else { reopened(&file) }.map_err(failed)?;
        let lost = header.state == State::Failed && header.stamp.vouches(&stamp);
        let store = if read_only {
            Store::open_read_only(medium, header, stamp)
        } else {
            Store::open(medium, header, stamp)
        };
        let upper = Self::of(file, path, store.map_err(failed)?, read_only, lost);
        if read_only && upper.store.unsaved() {
            return Err(refused(path, "has writes that its last server, which was killed, did not save")
                .hint("serve its disk once for writing: that saves them"));
        }
        Ok(upper)
    }

    fn of(file: File, path: &Path, store: Store<File>, read_only: bool, lost: bool) -> Self {
        Self {
            file: Arc::new(file),
            path: path.to_owned(),
            renamed: OnceLock::new(),
            read_only,
            lost,
            store: Arc::new(store),
            saver: Arc::default(),
        }
    }

    /// The file with the data.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where in the file the disk's first byte is.
    pub fn data_offset(&self) -> u64 {
        self.store.layout().data()
    }

    /// The largest size that the disk can have, in bytes.
    pub fn capacity(&self) -> u64 {
        self.store.layout().capacity
    }

    /// The disk's size, in bytes.
    pub fn size(&self) -> u64 {
        self.store.header().size
    }

    /// Its file, which is locked already.
    pub fn place(&self) -> Place<'_> {
        Place {
            role: Role::Upper,
            path: self.path(),
            file: &self.file,
            writable: !self.read_only,
            claimed: false,
        }
    }

    /// The size of the disk of an upper that exists, in bytes.
    pub fn size_at(path: &Path) -> Result<u64> {
        Ok(read(path, false, false)?.1.size)
    }

    /// The bytes of a block of the disk of an upper that exists and needs no base; `None`: it needs one.
    pub fn stands_alone_at(path: &Path) -> Result<Option<u32>> {
        let header = read(path, false, false)?.1;
        Ok(header.alone.then(|| u32::try_from(header.block_size).unwrap_or(512)))
    }

    /// Whether it needs no base: it was flattened, or is over a layer that was.
    pub fn stands_alone(&self) -> bool {
        self.store.header().alone
    }

    /// It has all of the disk: saves that, and from then on nothing lies below it, all at once and durably.
    pub fn stand_alone(&self) -> Result<()> {
        self.store.stand_alone().map_err(|error| system(self.path(), &error))
    }

    /// Reads data of the disk, which has to be present.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.store.medium().read(into, self.data_offset() + offset)
    }

    /// Writes data of the disk, which is not present yet.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.store.medium().write(data, self.data_offset() + offset)
    }

    /// The same for data that is zero: it becomes a hole, where the file system has holes.
    pub fn clear(&self, offset: u64, zeroes: &[u8]) -> io::Result<()> {
        let at = self.data_offset() + offset;
        match self.store.medium().punch(at, zeroes.len() as u64) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.write(offset, zeroes),
            punched => punched,
        }
    }

    /// How many bytes its file takes up.
    pub fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or(0, |found| found.blocks() * 512)
    }

    /// The path of its file.
    pub fn path(&self) -> &Path {
        self.renamed.get().unwrap_or(&self.path)
    }

    /// Distinguishes it from all others.
    pub fn uuid(&self) -> Uuid {
        self.store.header().uuid
    }

    /// The layer below, if that is not the base.
    pub fn parent(&self) -> Option<Parent> {
        self.store.header().below()
    }

    /// The layer that it was made over, even if it does not need it any more.
    pub fn was_over(&self) -> Option<Uuid> {
        Some(self.store.header().over).filter(|uuid| *uuid != Uuid::NONE)
    }

    /// The base's identity, as it was when it was made.
    pub fn base(&self) -> String {
        self.store.header().base
    }

    /// This server begins to write, unless it only reads: whoever knows the content that the last one left learns from the
    /// file that it is another.
    pub fn begin_to_write(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let begun = Uuid::new().and_then(|server| self.store.begin_to_write(server));
        begun.map_err(|error| system(self.path(), &error))
    }

    /// Receives the errors of saves that no request waits for.
    pub fn report_to(&self, reporter: Reporter) {
        self.saver.report_to(reporter);
    }

    /// It belongs to a disk that exists already, whose clients have to learn of what the last server has lost.
    pub fn goes_on(&self) {
        if self.lost {
            self.store.fail();
        }
    }

    /// Calls `found` with each range of bytes that is present. May block; a range may come more than once.
    pub fn present(&self, found: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        self.store.present(found).map_err(|error| system(self.path(), &error))
    }

    /// A range of bytes was written: it is present from here on, also after a kill of the server. Called after its data is in
    /// the page cache and before the write is answered, on any thread. One system call.
    pub fn note(&self, range: Range<u64>) -> std::result::Result<(), Errno> {
        self.note_all(&[range])
    }

    /// The same for several ranges, with one system call. If it fails, any of them may be present.
    pub fn note_all(&self, ranges: &[Range<u64>]) -> std::result::Result<(), Errno> {
        let entries = self.store.note(ranges).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        if entries >= MANY {
            self.saver.save_soon(&self.store);
        }
        Ok(())
    }

    /// Whether a flush has to save: something is noted and not saved, or was lost.
    pub fn unsaved(&self) -> bool {
        !self.read_only && self.store.unsaved()
    }

    /// Whether a sync has failed: later saves fail as well.
    pub fn failed(&self) -> bool {
        self.store.failed()
    }

    /// A sync or write-back of its file has failed elsewhere: what was not saved may be lost. Nothing is saved from here on.
    pub fn poison(&self) {
        self.store.poison();
    }

    /// Makes durable all data that was written, and all that was noted. Blocks.
    pub fn save(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.store.save().map_err(|error| {
            Error::system(format!("cannot save the upper {}", self.path().display()), &error)
                .kind(ErrorKind::Backend)
        })
    }

    /// The same without blocking: `saved` is called on a thread of the upper's own. One save answers all who wait for it.
    pub fn save_then(&self, saved: Saved) {
        self.saver.save(&self.store, saved);
    }

    /// Changes the size of the disk. What is beyond a smaller size becomes a hole. Bytes that are added show what lies below
    /// them, unless they are [noted](Self::note).
    pub fn resize(&self, size: u64) -> Result<()> {
        let layout = self.store.layout();
        if size > layout.capacity {
            return Err(refused(self.path(), format!("cannot describe {size} bytes")).hint(format!(
                "it was made for disks of at most {} bytes: commit it, and make a new one",
                layout.capacity
            )));
        }
        let failed = |error| system(self.path(), &error);
        // Never longer than its file, or it would count as truncated.
        let (before, length) = (self.size(), layout.length(size));
        if size > before {
            // To its end first: a resize that did not end may have left data behind it.
            // And durably, before the header says so.
            let medium = self.store.medium();
            medium.cut(layout.length(before), length).and_then(|()| medium.sync()).map_err(failed)?;
        }
        self.store.change(|header| header.size = size).map_err(failed)?;
        if size < before {
            self.file.set_len(length).map_err(failed)?;
        }
        Ok(())
    }

    /// Saves, and lets nobody write to it again. Nobody writes to it any more.
    pub fn seal(&self) -> Result<()> {
        self.store.seal().map_err(|error| system(self.path(), &error))?;
        claim::share(self.path(), &self.file)
    }

    /// Throws away all that was written, all at once. Nobody reads or writes meanwhile.
    pub fn reset(&self) -> Result<()> {
        self.store.reset().map_err(|error| {
            Error::system(format!("cannot reset the upper {}", self.path().display()), &error)
                .kind(ErrorKind::Backend)
        })
    }

    /// Locks the file again, and reads what another server may have changed since [`let_go`](Self::let_go).
    pub fn take_back(&self) -> Result<()> {
        let claim = if self.read_only { claim::share } else { claim::keep };
        claim(self.path(), &self.file)?;
        self.read_again().inspect_err(|_| claim::let_go(&self.file))?;
        self.saver.begin_again();
        Ok(())
    }

    fn read_again(&self) -> Result<()> {
        let (mine, header) = (self.store.header(), header_of(&self.file, self.path())?);
        if (header.uuid, header.state) != (mine.uuid, mine.state) {
            return Err(refused(self.path(), "was used for something else meanwhile")
                .hint("serve the disk by another process, from what the upper is now"));
        }
        self.store.reload(header).map_err(|error| system(self.path(), &error))
    }

    /// The disk is closed: waits for saves, and unlocks the file for another disk, even if this is still referenced.
    pub fn let_go(&self) {
        self.saver.end();
        claim::let_go(&self.file);
    }
}

impl Drop for Upper {
    fn drop(&mut self) {
        self.saver.end();
    }
}
