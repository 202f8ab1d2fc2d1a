//! What the queues of a mirrored disk have in common: which of its sides have all of it, and what the others lack.

use crate::backend::bits::Bits;
use crate::backend::overlay::queues::Queues;
use crate::backend::{Completer, Token};
use crate::error::{Error, Result};
use crate::number::to_usize;
use crate::queue::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It gets nothing.
    Off,
    /// It lacks some parts. It gets what is written to the others, and is not read.
    Filling,
    /// It has all that the disk has.
    Equal,
}

/// One of the disks.
pub struct Side {
    status: AtomicU8,
    /// The parts that it lacks.
    pub dirty: Bits,
    /// Why it has to be given up, or was: 0: it has not.
    failed: AtomicI32,
    /// The part that is being copied to it, and one more; 0: none.
    copying: AtomicU64,
}

/// The most sides of a disk.
pub const MOST_SIDES: usize = 8;

/// Some of the sides, by bits.
pub type Mask = u8;

const NOBODY: usize = usize::MAX;

/// See the [module](self).
pub struct Sides {
    pub size: u64,
    /// Bytes of a part.
    pub part: u64,
    pub queues: Queues,
    all: Vec<Side>,
    /// The side that has to succeed: a failure of it is the disk's, and it is never given up.
    first: Option<usize>,
    /// The side that serves alone.
    alone: AtomicUsize,
    /// Calls that wait until a side that has failed is given up.
    withheld: Mutex<Vec<(Completer, Token)>>,
    /// Some side has failed, or the disk is served no more.
    told: (Mutex<bool>, Condvar),
    /// No queue serves it any more.
    ended: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sides {
    /// Of a disk of `size` bytes, in parts of `part` bytes.
    pub fn new(size: u64, part: u64, number: usize, first: Option<usize>) -> Result<Self> {
        let bytes = to_usize(size.div_ceil(part).div_ceil(64) * 8).max(8);
        let side = || {
            let dirty = Bits::new(bytes).map_err(|error| Error::system("cannot map a table", &error))?;
            Ok(Side {
                status: AtomicU8::new(Status::Off as u8),
                dirty,
                failed: AtomicI32::new(0),
                copying: AtomicU64::new(0),
            })
        };
        Ok(Self {
            size,
            part,
            queues: Queues::default(),
            all: (0..number).map(|_| side()).collect::<Result<_>>()?,
            first,
            alone: AtomicUsize::new(NOBODY),
            withheld: Mutex::default(),
            told: Default::default(),
            ended: AtomicBool::new(false),
        })
    }

    pub fn side(&self, side: usize) -> &Side {
        &self.all[side]
    }

    pub fn number(&self) -> usize {
        self.all.len()
    }

    pub fn parts(&self) -> u64 {
        self.size.div_ceil(self.part)
    }

    /// The parts in which a range lies.
    pub fn parts_of(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.part..range.end.div_ceil(self.part)
    }

    pub fn status(&self, side: usize) -> Status {
        match self.all[side].status.load(SeqCst) {
            2 => Status::Equal,
            1 => Status::Filling,
            _ => Status::Off,
        }
    }

    pub fn set_status(&self, side: usize, status: Status) {
        self.all[side].status.store(status as u8, SeqCst);
    }

    /// The side that serves alone from here on; `None`: all do.
    pub fn serve_alone(&self, side: Option<usize>) {
        self.alone.store(side.unwrap_or(NOBODY), SeqCst);
    }

    #[inline]
    pub fn alone(&self) -> Option<usize> {
        let alone = self.alone.load(SeqCst);
        (alone != NOBODY).then_some(alone)
    }

    /// The side that has to succeed.
    pub fn first(&self) -> Option<usize> {
        self.first
    }

    /// The sides that have all of the disk.
    pub fn equal(&self) -> Mask {
        self.which(|side| self.status(side) == Status::Equal)
    }

    /// The sides that have to get a change of a range: those that have all, and those that have some of it.
    pub fn targets(&self, range: &Range<u64>) -> Mask {
        self.which(|side| match self.status(side) {
            Status::Equal => true,
            Status::Off => false,
            Status::Filling => self.has_some(side, self.parts_of(range)),
        })
    }

    fn has_some(&self, side: usize, mut parts: Range<u64>) -> bool {
        let Side { dirty, copying, .. } = &self.all[side];
        let copying = copying.load(SeqCst);
        parts.any(|part| part + 1 == copying || !dirty.has(part))
    }

    fn which(&self, is: impl Fn(usize) -> bool) -> Mask {
        (0..self.all.len()).filter(|side| is(*side)).fold(0, |mask, side| mask | 1 << side)
    }

    /// The part that is being copied to a side, in pieces: it gets changes of all of it meanwhile.
    pub fn copies(&self, side: usize, part: Option<u64>) {
        self.all[side].copying.store(part.map_or(0, |part| part + 1), SeqCst);
    }

    /// A side has failed: what made it fail waits until it is given up, or does not need it.
    pub fn failed(&self, side: usize, errno: Errno) {
        let _ = self.all[side].failed.compare_exchange(0, errno.max(1), SeqCst, SeqCst);
        self.tell();
    }

    /// Why a side has to be given up.
    pub fn failure(&self, side: usize) -> Option<Errno> {
        Some(self.all[side].failed.load(SeqCst)).filter(|errno| *errno != 0)
    }

    /// It may be used again.
    pub fn forgive(&self, side: usize) {
        self.all[side].failed.store(0, SeqCst);
    }

    /// Has a call wait while one of these sides, which have failed, is not given up. `false`: all are.
    pub fn withhold(&self, failed: Mask, completer: &Completer, token: Token) -> bool {
        let mut withheld = locked(&self.withheld);
        let waits =
            (0..self.all.len()).any(|side| failed & 1 << side != 0 && self.status(side) == Status::Equal);
        if waits {
            withheld.push((completer.clone(), token));
        }
        waits
    }

    /// A side is not used any more.
    pub fn give_up(&self, side: usize) {
        let mut withheld = locked(&self.withheld);
        self.set_status(side, Status::Off);
        let going_on = std::mem::take(&mut *withheld);
        drop(withheld);
        // Those that wait for another side find that it has failed, and wait again.
        going_on.into_iter().for_each(|(completer, token)| completer.complete(token, 0));
    }

    /// Wakes who [waits](Self::wait) for something to do.
    pub fn tell(&self) {
        *locked(&self.told.0) = true;
        self.told.1.notify_all();
    }

    /// Waits until there is something to do, at most so long.
    pub fn wait(&self, most: Duration) {
        let told = locked(&self.told.0);
        let (mut told, _) =
            self.told.1.wait_timeout_while(told, most, |told| !*told).unwrap_or_else(PoisonError::into_inner);
        *told = false;
    }

    /// No queue serves it any more.
    pub fn end(&self) {
        self.ended.store(true, SeqCst);
        self.tell();
    }

    /// Queues serve it.
    pub fn begin(&self) {
        self.ended.store(false, SeqCst);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }
}
