//! What of the local file is not in the store yet: a file beside it, to which each turn's writes are added.
//!
//! **Order.** A write's data is in the local file before its note is written, and the note before the write is answered. Both are
//! in the page cache then, which a killed server leaves as it is: the next server finds every write that was answered. A power
//! failure may keep either without the other. So after a boot, or on another mount, only notes that a *mark* names count: a mark
//! is written when their data has been synced, and is synced itself before a flush is answered.
//!
//! A new file takes the place of an old one by rename, when all that it has is durable.
//!
//! **Whose they are.** The header has the writer that stored what came before, and the one that is about to open the next epoch:
//! written before that fence is created. So whoever finds the notes can tell whether somebody else has opened the volume since.

use super::format::{Extent, LogId, sum};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind::InvalidData};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use ublk_core::backend::Stamp;

const MAGIC: &[u8; 16] = b"ublk-ts notes 1\n";
const HEADER: usize = 4096;
const RECORD: usize = 56;
/// What stands in a record in place of a segment's number, if it is a mark.
const MARK: u32 = u32::MAX;
/// Bytes: a file that is longer is written anew, with what is still needed.
pub const LONG: u64 = 64 << 20;

/// Whose notes they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The volume's id.
    pub volume: String,
    /// Who writes.
    pub writer: String,
    /// Its epoch.
    pub epoch: u32,
    /// Who is about to open the next one.
    pub next: String,
}

/// A segment of which the local file has the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Within its epoch.
    pub sequence: u32,
    /// Where its data begins in the local file.
    pub start: u64,
    /// In the order in which they count.
    pub extents: Vec<Extent>,
}

/// What a file of notes has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Whose they are.
    pub owner: Owner,
    /// In ascending order.
    pub segments: Vec<Noted>,
}

/// A note of a write.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    /// The segment.
    pub id: LogId,
    /// Where its data begins in the local file.
    pub start: u64,
    /// What was written.
    pub extent: Extent,
}

impl Note {
    fn encode(sequence: u32, start: u64, extent: &Extent, to: &mut Vec<u8>) {
        let at = to.len();
        to.extend([0; 4]);
        to.extend(sequence.to_le_bytes());
        to.extend(start.to_le_bytes());
        to.extend(extent.encode());
        to.extend([0; 8]);
        let sum = sum(&to[at + 4..]);
        to[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Notes {
    file: File,
    path: PathBuf,
    owner: Owner,
    length: u64,
    /// How many notes it has.
    count: u64,
    /// How many files there were before this one.
    generation: u64,
    bytes: Vec<u8>,
}

/// What a sync is about to make durable.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    count: u64,
    generation: u64,
}

impl Notes {
    /// What a file has; `None`: there is none, or one without a word.
    pub fn read(path: &Path) -> io::Result<Option<Left>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut header = [0; HEADER];
        if file.read_exact_at(&mut header, 0).is_err() || header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (owner, stamp) = decode(&header)?;
        let everything = stamp.vouches(&Stamp::now(&file)?);
        let mut bytes =
            vec![0; usize::try_from(file.metadata()?.len() - HEADER as u64).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, HEADER as u64)?;
        let mut notes = Vec::new();
        let mut certain = 0_u64;
        for record in bytes.chunks_exact(RECORD) {
            if sum(&record[4..]).to_le_bytes() != record[..4] {
                break;
            }
            let sequence = record[4..8].try_into().map_or(0, u32::from_le_bytes);
            if sequence == MARK {
                certain = certain.max(record[8..16].try_into().map_or(0, u64::from_le_bytes));
                continue;
            }
            let start = record[8..16].try_into().map_or(0, u64::from_le_bytes);
            let extent =
                Extent::decode(&record[16..48]).map_err(|error| io::Error::new(InvalidData, error.0))?;
            notes.push((sequence, start, extent));
        }
        notes.truncate(if everything { notes.len() } else { usize::try_from(certain).unwrap_or(usize::MAX) });
        let mut segments = BTreeMap::new();
        for (sequence, start, extent) in notes {
            let noted = segments.entry(sequence).or_insert(Noted { sequence, start, extents: Vec::new() });
            noted.extents.push(extent);
        }
        Ok(Some(Left { owner, segments: segments.into_values().collect() }))
    }

    /// Writes durably into a file's header who is about to open the next epoch.
    pub fn announce(path: &Path, next: &str) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let (owner, stamp) = decode(&header)?;
        file.write_all_at(&encode(&Owner { next: next.to_owned(), ..owner }, &stamp), 0)?;
        file.sync_data()
    }

    /// A new file, durable, in place of the old one. The data of these segments is durable.
    pub fn create(path: &Path, owner: Owner, segments: &[Noted]) -> io::Result<Self> {
        let new = path.with_extension("new");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
        let mut bytes = encode(&owner, &Stamp::now(&file)?).to_vec();
        for noted in segments {
            noted
                .extents
                .iter()
                .for_each(|extent| Note::encode(noted.sequence, noted.start, extent, &mut bytes));
        }
        file.write_all_at(&bytes, 0)?;
        let count = segments.iter().map(|noted| noted.extents.len() as u64).sum();
        let length = bytes.len() as u64;
        let mut notes = Self { file, path: path.to_owned(), owner, length, count, generation: 0, bytes };
        // The data of all of it is durable.
        notes.mark(notes.now())?;
        notes.file.sync_all()?;
        std::fs::rename(&new, path)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
        Ok(notes)
    }

    /// The same file anew, with these segments.
    pub fn again(&mut self, segments: &[Noted]) -> io::Result<()> {
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::create(&self.path, self.owner.clone(), segments)? };
        Ok(())
    }

    /// Adds notes, with one system call.
    pub fn add(&mut self, notes: &[Note]) -> io::Result<()> {
        self.bytes.clear();
        notes
            .iter()
            .for_each(|note| Note::encode(note.id.sequence, note.start, &note.extent, &mut self.bytes));
        self.append()?;
        self.count += notes.len() as u64;
        Ok(())
    }

    /// All notes until now, whose data somebody is about to sync.
    pub fn now(&self) -> Mark {
        Mark { count: self.count, generation: self.generation }
    }

    /// The data of the notes until then is durable.
    pub fn mark(&mut self, then: Mark) -> io::Result<()> {
        if then.generation != self.generation {
            return Ok(()); // the new file says that already
        }
        self.bytes.clear();
        let nothing = Extent { block: 0, blocks: 1, place: 0, kind: super::format::Kind::Zero };
        Note::encode(MARK, then.count, &nothing, &mut self.bytes);
        self.append()
    }

    fn append(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.bytes, self.length)?;
        self.length += self.bytes.len() as u64;
        Ok(())
    }

    /// Whether it is long.
    pub fn is_long(&self) -> bool {
        self.length > LONG
    }

    /// The file, to be synced without a lock.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

fn encode(owner: &Owner, stamp: &Stamp) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[20..24].copy_from_slice(&owner.epoch.to_le_bytes());
    header[24..60].copy_from_slice(&stamp.boot);
    header[60..68].copy_from_slice(&stamp.place.to_le_bytes());
    for (at, text) in [(68, &owner.volume), (132, &owner.writer), (196, &owner.next)] {
        let text = text.as_bytes();
        let length = text.len().min(64);
        header[at..at + length].copy_from_slice(&text[..length]);
    }
    let sum = sum(&header[20..]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

fn decode(header: &[u8; HEADER]) -> io::Result<(Owner, Stamp)> {
    if !header.starts_with(MAGIC) || sum(&header[20..]).to_le_bytes() != header[16..20] {
        return Err(io::Error::new(InvalidData, "it is not what ublk-ts writes"));
    }
    let text = |at: usize| {
        let bytes = header[at..at + 64].split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let epoch = header[20..24].try_into().map_or(0, u32::from_le_bytes);
    let mut boot = [0; 36];
    boot.copy_from_slice(&header[24..60]);
    let place = header[60..68].try_into().map_or(0, u64::from_le_bytes);
    Ok((Owner { volume: text(68), writer: text(132), epoch, next: text(196) }, Stamp { boot, place }))
}

/// As if the power had failed, or the file were on another mount.
#[cfg(test)]
pub fn boot(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).unwrap();
    let (owner, _) = decode(&header).unwrap();
    file.write_all_at(&encode(&owner, &Stamp::NEVER), 0).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::Kind;

    fn owner() -> Owner {
        Owner { volume: "v".repeat(32), writer: "w".repeat(32), epoch: 7, next: String::new() }
    }

    fn extent(block: u64) -> Extent {
        Extent { block, blocks: 2, place: 4, kind: Kind::Data }
    }

    fn note(sequence: u32, block: u64) -> Note {
        let id = LogId { epoch: 7, sequence };
        Note { id, start: 8192 * u64::from(sequence + 1), extent: extent(block) }
    }

    fn blocks(left: &Left) -> Vec<(u32, Vec<u64>)> {
        let blocks = |noted: &Noted| noted.extents.iter().map(|extent| extent.block).collect();
        left.segments.iter().map(|noted| (noted.sequence, blocks(noted))).collect()
    }

    #[test]
    fn a_killed_server_leaves_all_notes_and_a_power_failure_those_before_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        assert_eq!(Notes::read(&path).unwrap(), None);
        let mut notes = Notes::create(&path, owner(), &[]).unwrap();
        notes.add(&[note(0, 10), note(1, 20)]).unwrap();
        let then = notes.now();
        notes.add(&[note(0, 30)]).unwrap();
        notes.mark(then).unwrap();
        let left = Notes::read(&path).unwrap().unwrap();
        assert_eq!((&left.owner, left.segments[1].start), (&owner(), 16384));
        assert_eq!(blocks(&left), [(0, vec![10, 30]), (1, vec![20])]);
        boot(&path);
        assert_eq!(blocks(&Notes::read(&path).unwrap().unwrap()), [(0, vec![10]), (1, vec![20])]);
    }

    #[test]
    fn a_note_that_was_cut_or_changed_ends_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut notes = Notes::create(&path, owner(), &[]).unwrap();
        notes.add(&[note(0, 1), note(0, 2), note(0, 3)]).unwrap();
        let length = notes.length;
        notes.file.set_len(length - 1).unwrap();
        assert_eq!(blocks(&Notes::read(&path).unwrap().unwrap()), [(0, vec![1, 2])]);
        notes.file.write_all_at(&[9], length - 2 * RECORD as u64 + 20).unwrap();
        assert_eq!(blocks(&Notes::read(&path).unwrap().unwrap()), [(0, vec![1])]);
        notes.file.write_all_at(&[9], 30).unwrap();
        assert!(Notes::read(&path).is_err());
    }

    #[test]
    fn a_new_file_has_what_is_needed_and_says_who_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut notes = Notes::create(&path, owner(), &[]).unwrap();
        notes.add(&[note(0, 1)]).unwrap();
        notes.again(&[Noted { sequence: 3, start: 4096, extents: vec![extent(5), extent(6)] }]).unwrap();
        notes.add(&[note(4, 8)]).unwrap();
        Notes::announce(&path, &"n".repeat(32)).unwrap();
        let left = Notes::read(&path).unwrap().unwrap();
        assert_eq!(blocks(&left), [(3, vec![5, 6]), (4, vec![8])]);
        assert_eq!(left.owner, Owner { next: "n".repeat(32), ..owner() });
        boot(&path);
        assert_eq!(blocks(&Notes::read(&path).unwrap().unwrap()), [(3, vec![5, 6])]);
    }
}
