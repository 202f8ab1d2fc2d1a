//! Writes a log to a file, piece by piece.

use super::format::{Entry, HEADER, LONGEST_MARK, Superblock};
use super::order::{Event, events};
use crate::abi::SECTOR;
use crate::backend::recorder::log::Log;
use crate::backend::recorder::{LogData, Origin, Recorder};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use crate::request::Op;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read and written at once.
const PIECE: usize = 1 << 20;

/// A log that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// How many entries it has.
    pub entries: u64,
    /// The length of its file.
    pub bytes: u64,
}

impl Recorder {
    /// Writes what was answered so far to an empty file. `path`: what errors call it. Asks now and then whether it was `cancelled`.
    ///
    /// Fails after [`restore`](Self::restore): then the log begins with content that it does not have.
    pub fn export(&self, file: &File, path: &Path, cancelled: &dyn Fn() -> bool) -> Result<Exported> {
        let log = self.log();
        if log.beginning_at() != 0 {
            let what = "the record begins with what a power cut left, which no log can hold";
            return Err(Error::new(ErrorKind::Unsupported, what).hint("export it before restore()"));
        }
        write(&log, self, file, path, cancelled)
    }
}

/// Writes a log whose data is in `data`.
pub fn write(
    log: &Log,
    data: &dyn LogData,
    file: &File,
    path: &Path,
    cancelled: &dyn Fn() -> bool,
) -> Result<Exported> {
    if let Some(long) = log.marks().iter().find(|mark| mark.name.len() > LONGEST_MARK) {
        let begin: String = long.name.chars().take(20).collect();
        let what = format!("the mark {begin:?}… has more than {LONGEST_MARK} bytes");
        return Err(Error::invalid(what).hint("the format has no room for longer ones"));
    }
    let failed = |error: io::Error| {
        Error::system(format!("cannot write {}", path.display()), &error).kind(ErrorKind::Backend)
    };
    let entries = events(log).count() as u64;
    let mut out = Out { file, buffer: Vec::with_capacity(PIECE + to_usize(SECTOR)), begin: 0 };
    out.sector(Superblock { entries, sector_size: 512 }.to_bytes(), b"").map_err(failed)?;
    let check = || {
        if cancelled() { Err(Error::new(ErrorKind::Cancelled, "the export was cancelled")) } else { Ok(()) }
    };
    for event in events(log) {
        check()?;
        let write = match event {
            Event::Flush => {
                out.sector(Entry::Flush.to_bytes(), b"").map_err(failed)?;
                continue;
            }
            Event::Mark(mark) => {
                let name = mark.name.as_bytes();
                out.sector(Entry::Mark { length: name.len() }.to_bytes(), name).map_err(failed)?;
                continue;
            }
            Event::Write(write) => write,
        };
        let op = if write.op == Op::Discard { Op::Discard } else { Op::Write };
        let entry = Entry::Change { sectors: write.range(), op, flags: write.flags, flushed: false };
        out.sector(entry.to_bytes(), b"").map_err(failed)?;
        let length = entry.data_length();
        let Some(from) = write.place.offset() else {
            debug_assert_eq!(write.place, Origin::ZERO);
            out.hole(length).map_err(failed)?;
            continue;
        };
        let mut done = 0;
        while done < length {
            check()?;
            let piece = to_usize((length - done).min(PIECE as u64));
            let room = out.room(piece).map_err(failed)?;
            data.read(from + done, room).map_err(|error| {
                Error::system("cannot read the log's data", &error).kind(ErrorKind::Backend)
            })?;
            done += piece as u64;
        }
    }
    let bytes = out.finish().map_err(failed)?;
    Ok(Exported { entries, bytes })
}

/// A file that is written from its beginning to its end.
struct Out<'a> {
    file: &'a File,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Where that belongs.
    begin: u64,
}

impl Out<'_> {
    /// Bytes that the caller fills.
    fn room(&mut self, length: usize) -> io::Result<&mut [u8]> {
        if self.buffer.len() + length > PIECE {
            self.write()?;
        }
        let start = self.buffer.len();
        self.buffer.resize(start + length, 0);
        Ok(&mut self.buffer[start..])
    }

    /// A sector that begins with these bytes.
    fn sector(&mut self, header: [u8; HEADER], more: &[u8]) -> io::Result<()> {
        let sector = self.room(to_usize(SECTOR))?;
        sector[..HEADER].copy_from_slice(&header);
        sector[HEADER..HEADER + more.len()].copy_from_slice(more);
        Ok(())
    }

    /// Zeroes, which take up no space where the file system can do that.
    fn hole(&mut self, length: u64) -> io::Result<()> {
        self.write()?;
        self.begin += length;
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.begin)?;
        self.begin += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left. Gives the length of the file, which may end with a hole.
    fn finish(mut self) -> io::Result<u64> {
        self.write()?;
        self.file.set_len(self.begin)?;
        Ok(self.begin)
    }
}
