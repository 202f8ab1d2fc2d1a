//! What a queue has asked its server for, and waits for.

use super::protocol::{Command, Request};
use super::replies::{Asked as Wanted, Covered};
use crate::queue::{Stretch, Token};

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It waits to be sent.
    Ready,
    /// The ring is sending it, and uses its data.
    Sending,
    /// The server has it.
    Sent,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What the call wants.
    pub request: Request,
    /// Who waits for it; `None`: nobody, the queue flushes for its journal.
    pub token: Option<Token>,
    /// Of a read or write.
    pub data: Option<Stretch>,
    pub progress: Progress,
    /// The server has answered, while the ring was still busy with the data: the answer.
    pub answer: Option<u32>,
    /// The first error of a structured reply.
    pub error: u32,
    pub covered: Covered,
    /// Its data has to be durable, and the server can do that only with a flush.
    pub then_flush: bool,
    /// It is at that flush.
    pub flushing: bool,
    /// Of a flush: how many writes had been answered when it was sent, and the journal's next number.
    pub mark: (u64, u64),
    /// Whether room in the journal is kept for it.
    pub reserved: bool,
    /// How often writes may have been lost before it was asked for.
    pub losses: u64,
    order: u64,
}

impl Entry {
    /// Not sent yet.
    pub fn new(
        request: Request,
        token: Option<Token>,
        data: Option<Stretch>,
        then_flush: bool,
        losses: u64,
    ) -> Self {
        Self {
            request,
            token,
            data,
            progress: Progress::Ready,
            answer: None,
            error: 0,
            covered: Covered::default(),
            then_flush,
            flushing: false,
            mark: (0, 0),
            reserved: false,
            losses,
            order: 0,
        }
    }

    /// What is to be sent now.
    pub fn to_send(self) -> Request {
        let Request { cookie, .. } = self.request;
        if self.flushing {
            Request { command: Command::Flush, flags: 0, cookie, offset: 0, length: 0 }
        } else {
            self.request
        }
    }

    /// The data that goes with it.
    pub fn data_to_send(&self) -> Option<Stretch> {
        self.data.filter(|_| self.request.command == Command::Write && !self.flushing)
    }

    /// Whether the server is asked to flush.
    pub fn is_flush(&self) -> bool {
        self.flushing || self.request.command == Command::Flush
    }

    /// Whether it changes data.
    pub fn changes(&self) -> bool {
        matches!(self.request.command, Command::Write | Command::Trim | Command::WriteZeroes)
    }

    /// Bytes of data that the journal would keep.
    pub fn journal_data(&self) -> usize {
        self.data.filter(|_| self.request.command == Command::Write).map_or(0, |data| data.length())
    }

    /// The connection is lost: it will be sent again as a whole.
    fn again(&mut self) {
        self.progress = Progress::Ready;
        (self.answer, self.error, self.flushing) = (None, 0, false);
        self.covered = Covered::default();
    }
}

struct Place {
    generation: u32,
    entry: Option<Entry>,
}

/// All of them. A request's cookie has the number of its place and how often that was used: a late reply fits no other request.
#[derive(Default)]
pub struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    next: u64,
}

impl Table {
    /// Adds one; its number.
    pub fn add(&mut self, mut entry: Entry) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, entry: None });
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let place = &mut self.places[at as usize];
        place.generation = place.generation.wrapping_add(1);
        entry.request.cookie = u64::from(place.generation) << 32 | u64::from(at);
        entry.order = self.next;
        self.next += 1;
        place.entry = Some(entry);
        at
    }

    pub fn get(&mut self, at: u32) -> Option<&mut Entry> {
        self.places.get_mut(at as usize)?.entry.as_mut()
    }

    /// Takes it out.
    pub fn remove(&mut self, at: u32) -> Option<Entry> {
        let entry = self.places.get_mut(at as usize)?.entry.take()?;
        self.free.push(at);
        Some(entry)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a cookie")]
    fn at(&self, cookie: u64) -> Option<(u32, &Entry)> {
        let at = cookie as u32;
        let place = self.places.get(at as usize).filter(|place| place.generation == (cookie >> 32) as u32)?;
        place.entry.as_ref().map(|entry| (at, entry))
    }

    /// The number of the request that a cookie names.
    pub fn named(&self, cookie: u64) -> Option<u32> {
        self.at(cookie).map(|(at, _)| at)
    }

    /// What the server was asked for with a cookie, if it has not answered.
    pub fn wanted(&self, cookie: u64) -> Option<Wanted> {
        let (_, entry) = self.at(cookie)?;
        if entry.progress == Progress::Ready || entry.answer.is_some() {
            return None;
        }
        let reads = if entry.request.command == Command::Read { entry.request.length } else { 0 };
        Some(Wanted { offset: entry.request.offset, reads })
    }

    pub fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Whether the server has something to answer.
    pub fn under_way(&self) -> bool {
        let mut entries = self.places.iter().filter_map(|place| place.entry.as_ref());
        entries.any(|entry| entry.progress != Progress::Ready)
    }

    /// The numbers of those that pass, in the order in which they were added.
    pub fn which(&self, passes: impl Fn(&Entry) -> bool) -> Vec<u32> {
        let mut found: Vec<_> = (0..)
            .zip(&self.places)
            .filter_map(|(at, place)| Some((place.entry.as_ref().filter(|entry| passes(entry))?.order, at)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, at)| at).collect()
    }

    /// The connection is lost: all will be sent again.
    pub fn again(&mut self) {
        self.places.iter_mut().filter_map(|place| place.entry.as_mut()).for_each(Entry::again);
    }
}
