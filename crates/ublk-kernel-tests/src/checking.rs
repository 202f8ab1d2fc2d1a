//! A disk whose every sector begins and ends with its own offset: what is written to the wrong place, or read from
//! one, shows.

use crate::{Gate, data};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use ublk_core::Result;
use ublk_core::backend::{Backend, Completion, Engine, Io, Piece, Properties, Site, Slot, Step};
use ublk_core::claim::Place;
use ublk_core::queue::{Descriptor, Op};

const SECTOR: usize = 512;
const WORD: usize = 8;
/// Where in a sector the words are.
const PLACES: [usize; 2] = [0, SECTOR - WORD];

fn word(at: u64) -> [u8; WORD] {
    (at ^ 0x5aa5_c33c_0ff0_9669).to_ne_bytes()
}

/// Marks `data`, whole sectors, as what belongs at `offset` of the disk.
pub fn stamp(data: &mut [u8], offset: u64) {
    for (sector, at) in data.chunks_exact_mut(SECTOR).zip((offset..).step_by(SECTOR)) {
        for place in PLACES {
            sector[place..place + WORD].copy_from_slice(&word(at + place as u64));
        }
    }
}

/// Where `data`, whole sectors, first holds something else than what belongs at `offset` of the disk.
pub fn first_wrong(data: &[u8], offset: u64) -> Option<u64> {
    assert!(data.len().is_multiple_of(SECTOR));
    data.chunks_exact(SECTOR).zip((offset..).step_by(SECTOR)).find_map(|(sector, at)| {
        let wrong = |place: &usize| sector[*place..place + WORD] != word(at + *place as u64);
        PLACES.iter().find(|place| wrong(place)).map(|place| at + *place as u64)
    })
}

/// The backend. Requests of 512 bytes wait for its gate, when it has one; those that the kernel makes for itself,
/// such as the partition scan's, are larger.
pub struct Checking {
    size: u64,
    block_size: u32,
    gate: Option<Arc<Gate>>,
    largest: AtomicU64,
    seen: Mutex<Vec<Descriptor>>,
    wrong: Mutex<Vec<String>>,
}

impl Checking {
    /// A disk of `size` bytes.
    pub fn new(size: u64, block_size: u32) -> Arc<Self> {
        Self::gated(size, block_size, None)
    }

    /// The same, with a gate.
    pub fn gated(size: u64, block_size: u32, gate: Option<Arc<Gate>>) -> Arc<Self> {
        let (seen, wrong) = (Mutex::default(), Mutex::default());
        Arc::new(Self { size, block_size, gate, largest: AtomicU64::new(0), seen, wrong })
    }

    /// Bytes in the largest request so far.
    pub fn largest(&self) -> u64 {
        self.largest.load(Ordering::SeqCst)
    }

    /// The reads and writes so far, by order of arrival.
    pub fn seen(&self) -> Vec<Descriptor> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Panics when any write carried another place's data.
    pub fn assert_right(&self) {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_empty(), "{} wrong, the first: {}", wrong.len(), wrong[0]);
    }

    fn check(&self, io: &mut Io<'_>) {
        let what = io.request.what;
        self.largest.fetch_max(what.length, Ordering::SeqCst);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        if what.op == Op::Write
            && let Some(at) = first_wrong(data(io).unwrap(), what.offset)
        {
            let complaint = format!("{what:?}: the word for {at} is another's");
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
        }
    }
}

impl Backend for Checking {
    fn properties(&self) -> Properties {
        Properties { block_size: self.block_size, ..Properties::new(self.size) }
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let gate = self.gate.clone().map(|gate| (gate.slot(site), gate));
        Ok(Box::new(CheckingEngine { disk: self, gate }))
    }
}

struct CheckingEngine {
    disk: Arc<Checking>,
    gate: Option<(Slot, Arc<Gate>)>,
}

fn finish(io: &mut Io<'_>) -> Step {
    let what = io.request.what;
    if what.op == Op::Read {
        stamp(data(io).unwrap(), what.offset);
    }
    Step::Done(Ok(what.length.try_into().unwrap()))
}

impl Engine for CheckingEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        self.disk.check(io);
        match &self.gate {
            Some((slot, gate)) if piece.length == 512 => gate.wait(*slot, io),
            _ => finish(io),
        }
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        if usize::try_from(completion.result) == Ok(WORD) { finish(io) } else { Step::Done(Err(libc::EIO)) }
    }
}
