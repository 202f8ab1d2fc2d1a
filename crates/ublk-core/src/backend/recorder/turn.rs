//! The changes that a turn of a queue has brought. They are logged together at its end: before they are answered, but after the
//! start of each flush that the turn brought, since whoever asked for the flush did not wait for these.

use super::Recorder;
use super::content_map::Origin;
use super::log::Change;
use crate::queue::{Errno, Held, Io};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// Why a write fails if the log's data is full.
pub const FULL: &str = "the log has no room for more data";

/// See the [module](self).
#[derive(Default)]
pub struct Turn {
    /// With their numbers.
    changes: Vec<(u64, Change)>,
    /// Data that is not in the log's data yet, in order, and the indices of the changes that it belongs to.
    held: Vec<Held>,
    owners: Vec<usize>,
    /// The number of the next change.
    next: u64,
    /// Those that were not logged.
    refused: Vec<(u64, Why)>,
}

/// Why a change was not logged.
#[derive(Debug, Clone, Copy)]
enum Why {
    Off,
    Full,
    Failed(Errno),
}

impl Turn {
    pub fn new(depth: u16) -> Self {
        let depth = usize::from(depth);
        let (changes, held, owners) =
            (Vec::with_capacity(depth), Vec::with_capacity(depth), Vec::with_capacity(depth));
        Self { changes, held, owners, ..Self::default() }
    }

    /// A change that is logged at the end of the turn, and its data, if that has to get to the log's data first. Returns its
    /// number.
    pub fn add(&mut self, change: Change, data: Option<Held>) -> u64 {
        if let Some(held) = data {
            self.held.push(held);
            self.owners.push(self.changes.len());
        }
        self.changes.push((self.next, change));
        self.next += 1;
        self.next - 1
    }

    /// The turn is at its end, for the change with this number. The first of them has all logged.
    pub fn end(&mut self, io: &mut Io<'_>, recorder: &Recorder, number: u64) -> Result<(), Errno> {
        if !self.changes.is_empty() {
            self.log(io, recorder);
        }
        let Some(at) = self.refused.iter().position(|(refused, _)| *refused == number) else { return Ok(()) };
        match self.refused.swap_remove(at).1 {
            Why::Off => Err(libc::EIO),
            Why::Full => {
                io.report(FULL);
                Err(libc::ENOSPC)
            }
            Why::Failed(errno) => {
                io.report(format!("cannot write to the log's data: {}", io::Error::from_raw_os_error(errno)));
                Err(errno)
            }
        }
    }

    fn log(&mut self, io: &mut Io<'_>, recorder: &Recorder) {
        self.forget_failed(io, recorder);
        if let Some(file) = recorder.data.file_in_memory().filter(|_| !self.held.is_empty()) {
            let (stored, why) = self.store(io, recorder, file);
            self.refuse(recorder, stored, why);
        }
        let refused = recorder.log_all(&self.changes);
        self.refused.extend(refused.into_iter().map(|number| (number, Why::Off)));
        self.changes.clear();
        self.held.clear();
        self.owners.clear();
    }

    /// Forgets the changes whose requests have failed in a layer above: where their data was, that of other requests may be.
    fn forget_failed(&mut self, io: &Io<'_>, recorder: &Recorder) {
        for at in (0..self.held.len()).rev() {
            if !io.holds(&self.held[at]) {
                self.held.remove(at);
                let owner = self.owners.remove(at);
                self.owners[at..].iter_mut().for_each(|owner| *owner -= 1);
                recorder.failed(&self.changes.remove(owner).1);
            }
        }
    }

    /// Writes what is held to the log's data. Returns how many of the changes with such data have it there, and why not all.
    fn store(&mut self, io: &mut Io<'_>, recorder: &Recorder, file: &File) -> (usize, Why) {
        let (mut at, room) = recorder.room(self.held.iter().map(Held::length).sum());
        let fits = whole(&self.held, room);
        let (written, result) = io.write_held(file.as_fd(), at, &self.held[..fits]);
        let (stored, why) = match result {
            Ok(()) => (fits, Why::Full),
            Err(errno) => (whole(&self.held, written), Why::Failed(errno)),
        };
        for (held, owner) in self.held[..stored].iter().zip(&self.owners) {
            self.changes[*owner].1.place = Origin::data(at);
            at += held.length();
        }
        (stored, why)
    }

    /// Of the changes with held data, those after the first ones fail.
    fn refuse(&mut self, recorder: &Recorder, stored: usize, why: Why) {
        for owner in self.owners.drain(stored..).rev() {
            let (number, change) = self.changes.remove(owner);
            recorder.failed(&change);
            self.refused.push((number, why));
        }
    }
}

/// How many of the first ones have at most so many bytes together.
fn whole(held: &[Held], bytes: u64) -> usize {
    let ends = held.iter().scan(0, |end, held| {
        *end += held.length();
        Some(*end)
    });
    ends.take_while(|end| *end <= bytes).count()
}
