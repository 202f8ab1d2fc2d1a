//! Where the clusters of a disk are, as far as is known: looked up by the queues' threads without a lock, changed by the
//! mapper alone.
//!
//! A queue [pins](Grace::pin) what it looks up until its operations on the files are back. Before the mapper gives a place
//! to something else, it clears the entries that name the place and [waits](Grace::wait) for the pins that are older than
//! that: no operation can then reach the place any more, and none can begin to.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Where a cluster is. In one number: its offset in a file, a multiple of 512, and in the bits below that the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(u64);

const KNOWN: u64 = 1;
const WRITABLE: u64 = 2;
const ZERO: u64 = 4;
const FILE_SHIFT: u32 = 3;
const FILE_MASK: u64 = 63;
const OFFSET: u64 = !511;

impl Entry {
    pub const UNKNOWN: Self = Self(0);
    /// It reads as zeroes.
    pub const ZEROES: Self = Self(KNOWN | ZERO);

    /// At `offset` of the file with that index, where it can be overwritten if `writable`.
    pub fn at(file: usize, offset: u64, writable: bool) -> Option<Self> {
        let fits = file as u64 <= FILE_MASK && offset & !OFFSET == 0;
        let writable = if writable { WRITABLE } else { 0 };
        fits.then_some(Self(KNOWN | writable | (file as u64) << FILE_SHIFT | offset))
    }

    pub fn is_known(self) -> bool {
        self.0 & KNOWN != 0
    }

    pub fn is_writable(self) -> bool {
        self.0 & WRITABLE != 0
    }

    pub fn is_zeroes(self) -> bool {
        self.0 & ZERO != 0
    }

    pub fn file(self) -> usize {
        (self.0 >> FILE_SHIFT & FILE_MASK) as usize
    }

    pub fn offset(self) -> u64 {
        self.0 & OFFSET
    }
}

/// How many entries belong together.
const CHUNK: u64 = 4096;
const CHUNK_LENGTH: usize = 4096;

/// The most chunks: 128 MiB of memory, enough for 1 TiB of a disk with clusters of 64 KiB.
const MOST: usize = 4096;

type Chunk = [AtomicU64; CHUNK_LENGTH];
const _: () = assert!(CHUNK_LENGTH as u64 == CHUNK);

/// See the [module](self).
pub struct Table {
    unit_bits: u32,
    /// For each chunk of the disk, one more than its number in the pool; 0: nothing of it is known.
    root: Box<[AtomicU32]>,
    pool: Box<[OnceLock<Box<Chunk>>]>,
    used: AtomicUsize,
}

impl Table {
    /// For a disk of `size` bytes in clusters of 2^`unit_bits`. `None`: it has too many.
    pub fn new(size: u64, unit_bits: u32) -> Option<Self> {
        const LARGEST: u64 = 8 << 20;
        let chunks = size.div_ceil(CHUNK << unit_bits);
        let length = usize::try_from(chunks).ok().filter(|_| chunks <= LARGEST)?;
        Some(Self {
            unit_bits,
            root: (0..length).map(|_| AtomicU32::new(0)).collect(),
            pool: (0..MOST.min(length)).map(|_| OnceLock::new()).collect(),
            used: AtomicUsize::new(0),
        })
    }

    /// Bytes of a cluster.
    pub fn unit(&self) -> u64 {
        1 << self.unit_bits
    }

    /// Where the cluster with the byte `offset` of the disk is. It stays there as long as a pin that is older than this.
    #[inline]
    pub fn get(&self, offset: u64) -> Entry {
        self.slot(offset).map_or(Entry::UNKNOWN, |slot| Entry(slot.load(Acquire)))
    }

    #[inline]
    fn slot(&self, offset: u64) -> Option<&AtomicU64> {
        let unit = offset >> self.unit_bits;
        let number = self.root.get(usize::try_from(unit / CHUNK).ok()?)?.load(Acquire);
        let chunk = self.pool.get((number as usize).checked_sub(1)?)?.get()?;
        chunk.get(usize::try_from(unit % CHUNK).ok()?)
    }

    /// Says where a cluster is. By the mapper only. Returns false if there is no room for more.
    pub fn set(&self, offset: u64, entry: Entry) -> bool {
        if let Some(slot) = self.slot(offset) {
            slot.store(entry.0, Release);
            return true;
        }
        let used = self.used.load(Relaxed);
        let unit = offset >> self.unit_bits;
        let Some(root) = usize::try_from(unit / CHUNK).ok().and_then(|at| self.root.get(at)) else {
            return false;
        };
        let Some(chunk) = self.pool.get(used) else { return false };
        chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; CHUNK_LENGTH]));
        self.used.store(used + 1, Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "there are few")]
        root.store(used as u32 + 1, Release);
        self.set(offset, entry)
    }

    /// Forgets where the clusters of a range are. By the mapper only.
    pub fn clear(&self, from: u64, to: u64) {
        let mut at = from >> self.unit_bits << self.unit_bits;
        while at < to {
            if let Some(slot) = self.slot(at) {
                slot.store(0, SeqCst);
                at += self.unit();
            } else {
                let chunk = CHUNK << self.unit_bits;
                at = at / chunk * chunk + chunk;
            }
        }
    }

    /// Forgets everything. By the mapper only. There is room only once the older pins are gone: see [`recycle`](Self::recycle).
    pub fn clear_all(&self) {
        for root in &self.root {
            root.store(0, SeqCst);
        }
    }

    /// Uses the memory again, after everything was forgotten, and no pin is older than that.
    pub fn recycle(&self) {
        for slot in self.pool.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter()) {
            slot.store(0, Relaxed);
        }
        self.used.store(0, Relaxed);
    }
}

/// Who still uses what was looked up.
#[derive(Default)]
pub struct Grace {
    epoch: AtomicUsize,
    /// The last wait took too long: there may be older pins of both kinds.
    behind: AtomicBool,
    pins: Mutex<Vec<Arc<Pins>>>,
}

/// The pins of one queue, by whether their epoch is odd. On a line of the processor's cache of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Pins([AtomicU32; 2]);

/// Keeps the places that are looked up from now on from being used for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(usize);

/// How long the mapper waits for the operations of queues.
const PATIENCE: Duration = Duration::from_secs(60);

impl Grace {
    /// For one more queue.
    pub fn join(&self) -> Arc<Pins> {
        let pins = Arc::<Pins>::default();
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).push(pins.clone());
        pins
    }

    #[inline]
    pub fn pin(&self, pins: &Pins) -> Pin {
        loop {
            let epoch = self.epoch.load(SeqCst) % 2;
            pins.0[epoch].fetch_add(1, SeqCst);
            if self.epoch.load(SeqCst) % 2 == epoch {
                return Pin(epoch);
            }
            pins.0[epoch].fetch_sub(1, SeqCst); // it began to wait meanwhile
        }
    }

    #[inline]
    pub fn unpin(pins: &Pins, pin: Pin) {
        pins.0[pin.0].fetch_sub(1, SeqCst);
    }

    /// Waits until all pins that are there now are gone. By the mapper only, after it has cleared entries. Returns false if
    /// that takes too long.
    pub fn wait(&self) -> bool {
        self.wait_for(PATIENCE)
    }

    fn wait_for(&self, patience: Duration) -> bool {
        let twice = self.behind.load(Relaxed);
        let done = self.wait_for_one_kind(patience) && (!twice || self.wait_for_one_kind(patience));
        self.behind.store(!done, Relaxed);
        done
    }

    fn wait_for_one_kind(&self, patience: Duration) -> bool {
        let old = self.epoch.fetch_add(1, SeqCst) % 2;
        let all = self.pins.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let until = Instant::now() + patience;
        let mut tries = 0_u32;
        while all.iter().any(|pins| pins.0[old].load(SeqCst) > 0) {
            tries += 1;
            if tries < 64 {
                std::thread::yield_now();
            } else if Instant::now() > until {
                return false;
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_file_and_its_offset() {
        let entry = Entry::at(33, (1 << 55) + 512, true).unwrap();
        assert_eq!((entry.file(), entry.offset()), (33, (1 << 55) + 512));
        assert!(entry.is_known() && entry.is_writable() && !entry.is_zeroes());
        assert!(Entry::ZEROES.is_known() && Entry::ZEROES.is_zeroes() && !Entry::ZEROES.is_writable());
        assert!(!Entry::UNKNOWN.is_known());
        assert_eq!(Entry::at(0, 513, false), None);
        assert_eq!(Entry::at(64, 512, false), None);
    }

    #[test]
    fn a_table_forgets_ranges_and_everything() {
        let table = Table::new(3 * (CHUNK << 16), 16).unwrap();
        let entry = |offset| Entry::at(0, offset, true).unwrap();
        let last = 3 * (CHUNK << 16) - 1;
        assert_eq!(table.get(last), Entry::UNKNOWN);
        for at in [0, 1 << 16, 2 << 16, last] {
            assert!(table.set(at, entry(0x10_0000)));
        }
        table.clear(1 << 16, (1 << 16) + 1);
        assert_eq!([0, 1 << 16, 2 << 16].map(|at| table.get(at).is_known()), [true, false, true]);
        assert_eq!(table.get(last), entry(0x10_0000));
        table.clear(0, last + 1);
        assert!(!table.get(last).is_known());
        table.set(last, entry(512));
        table.clear_all();
        assert!(!table.get(last).is_known());
        table.recycle();
        table.set(0, entry(1024));
        assert!(!table.get(1 << 16).is_known());
        assert!(Table::new(1 << 62, 9).is_none());
    }

    #[test]
    fn only_older_pins_are_waited_for() {
        let grace = Grace::default();
        let (one, two) = (grace.join(), grace.join());
        assert!(grace.wait());
        let old = grace.pin(&one);
        assert!(!grace.wait_for(Duration::from_millis(1)));
        assert!(!grace.wait_for(Duration::from_millis(1)));
        Grace::unpin(&one, old);
        assert!(grace.wait());
        let old = grace.pin(&two);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| grace.wait());
            while grace.epoch.load(SeqCst) % 2 == old.0 {
                std::thread::yield_now();
            }
            let new = grace.pin(&one); // is not waited for
            Grace::unpin(&two, old);
            assert!(waits.join().unwrap());
            Grace::unpin(&one, new);
        });
    }
}
