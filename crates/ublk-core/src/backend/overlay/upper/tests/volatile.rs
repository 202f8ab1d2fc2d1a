//! A medium in memory that loses what was not synced when the power fails, in any order and in parts of 512 bytes.

use crate::backend::overlay::upper::medium::Medium;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub const ATOM: u64 = 512;

/// A part of 512 bytes, at its number. Zeroes are not stored.
type Atoms = BTreeMap<u64, Vec<u8>>;

#[derive(Debug, Clone, Default)]
struct State {
    length: u64,
    /// What processes of this boot read.
    cached: Atoms,
    /// What is on the medium for certain.
    durable: Atoms,
    durable_length: u64,
    /// A sync with no unsynced write in these atoms is skipped, as if it was not in the program.
    skip: Option<Range<u64>>,
    /// Versions of atoms since the last sync, from the oldest: any of them, or the durable one, may be there after a power
    /// failure.
    loose: BTreeMap<u64, Vec<Vec<u8>>>,
}

/// See the [module](self). A clone is the same medium.
#[derive(Debug, Clone, Default)]
pub struct Volatile {
    state: Arc<Mutex<State>>,
    /// Calls that may still succeed before the process is dead: none has an effect then.
    alive: Arc<Mutex<Arc<AtomicUsize>>>,
    /// Syncs that may still succeed.
    syncs: Arc<AtomicUsize>,
    /// There is no space for more blocks of 4 KiB.
    pub full: Arc<AtomicBool>,
}

impl Volatile {
    pub fn new() -> Self {
        let this = Self::default();
        this.lives().store(usize::MAX, SeqCst);
        this.syncs.store(usize::MAX, SeqCst);
        this
    }

    /// From here on a sync has no effect unless something in these atoms is not synced.
    pub fn skip_syncs(&self, atoms: Range<u64>) {
        self.state().skip = Some(atoms);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It belongs to the process that uses another one.
    pub fn dies_with(&self, other: &Self) {
        let lives = other.lives();
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = lives;
    }

    fn lives(&self) -> Arc<AtomicUsize> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The process dies after that many more calls that change something.
    pub fn dies_after(&self, calls: usize) {
        self.lives().store(calls, SeqCst);
    }

    pub fn is_dead(&self) -> bool {
        self.lives().load(SeqCst) == 0
    }

    /// The sync after that many fails, and all later ones succeed: the kernel reports a failure once.
    pub fn sync_fails_after(&self, syncs: usize) {
        self.syncs.store(syncs, SeqCst);
    }

    /// The process was killed: another one sees what this one wrote.
    pub fn after_kill(&self) -> Self {
        let new = Self::new();
        *new.state() = self.state().clone();
        new
    }

    /// The power has failed. `choose` is given how many versions an atom may have on the medium, and picks one.
    pub fn after_power_failure(&self, mut choose: impl FnMut(usize) -> usize) -> Self {
        let state = self.state().clone();
        let mut atoms = state.durable;
        for (at, versions) in state.loose {
            match choose(versions.len() + 1) {
                0 => {}
                version => put(&mut atoms, at, versions[version - 1].clone()),
            }
        }
        let length = state.durable_length;
        atoms.retain(|at, _| at * ATOM < length);
        let new = Self::new();
        *new.state() = State {
            length,
            cached: atoms.clone(),
            durable: atoms,
            durable_length: length,
            skip: state.skip,
            loose: BTreeMap::new(),
        };
        new
    }

    /// How many states a power failure may leave.
    pub fn states(&self) -> u128 {
        let state = self.state();
        state.loose.values().map(|versions| versions.len() as u128 + 1).fold(1, u128::saturating_mul)
    }

    /// Whether a change takes place.
    fn change(&self) -> io::Result<()> {
        let lived = self.lives().fetch_update(SeqCst, SeqCst, |left| match left {
            usize::MAX => Some(left),
            left => left.checked_sub(1),
        });
        // Its caller is dead as well: nobody sees the error.
        lived.map(drop).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))
    }
}

fn put(atoms: &mut Atoms, at: u64, bytes: Vec<u8>) {
    if bytes.iter().all(|byte| *byte == 0) {
        atoms.remove(&at);
    } else {
        atoms.insert(at, bytes);
    }
}

fn get(atoms: &Atoms, at: u64) -> Vec<u8> {
    atoms.get(&at).cloned().unwrap_or_else(|| vec![0; ATOM as usize])
}

impl Medium for Volatile {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let state = self.state();
        if at + bytes.len() as u64 > state.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let from = (at % ATOM) as usize;
            let count = rest.len().min(ATOM as usize - from);
            match state.cached.get(&(at / ATOM)) {
                Some(atom) => rest[..count].copy_from_slice(&atom[from..from + count]),
                None => rest[..count].fill(0),
            }
            (at, rest) = (at + count as u64, &mut rest[count..]);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut at, mut rest) = (at, bytes);
        // A process that is killed may have written a part.
        while !rest.is_empty() {
            self.change()?;
            let mut state = self.state();
            let (atom, from) = (at / ATOM, (at % ATOM) as usize);
            let count = rest.len().min(ATOM as usize - from);
            let mut content = get(&state.cached, atom);
            content[from..from + count].copy_from_slice(&rest[..count]);
            if self.full.load(SeqCst)
                && state.cached.range(atom / 8 * 8..).next().is_none_or(|(at, _)| at / 8 > atom / 8)
            {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            if content != get(&state.cached, atom) {
                put(&mut state.cached, atom, content.clone());
                state.loose.entry(atom).or_default().push(content);
            }
            (at, rest) = (at + count as u64, &rest[count..]);
            assert!(at <= state.length, "an upper's file has its length from the start");
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.change()?;
        let failed = self.syncs.fetch_update(SeqCst, SeqCst, |left| match left {
            usize::MAX => Some(left),
            left => Some(left.wrapping_sub(1)), // after the failure: none fails
        });
        let mut state = self.state();
        if failed == Ok(0) {
            // The kernel has dropped what it could not write: it is neither on the medium nor to be written again, though it
            // may still be read for a while.
            state.loose.clear();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let skipped =
            state.skip.as_ref().is_some_and(|within| state.loose.range(within.clone()).next().is_none());
        if !skipped {
            let loose = std::mem::take(&mut state.loose);
            for (at, versions) in loose {
                if let Some(last) = versions.into_iter().last() {
                    put(&mut state.durable, at, last);
                }
            }
            state.durable_length = state.length;
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.state().length)
    }

    fn cut(&self, from: u64, length: u64) -> io::Result<()> {
        for length in [from, length] {
            self.change()?;
            let mut state = self.state();
            // A file system may free any of these before the others.
            let gone: Vec<u64> = state.cached.range(length.div_ceil(ATOM)..).map(|(at, _)| *at).collect();
            for at in gone {
                state.cached.remove(&at);
                state.loose.entry(at).or_default().push(vec![0; ATOM as usize]);
            }
            state.length = length;
        }
        Ok(())
    }

    fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        self.write(&vec![0; length as usize], at)
    }

    fn data(&self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        // As on a file system with blocks of 4 KiB.
        let state = self.state();
        let mut blocks = state.cached.range(within.start / ATOM / 8 * 8..).map(|(at, _)| at / 8);
        let Some(first) = blocks.next().filter(|block| block * 8 * ATOM < within.end) else {
            return Ok(None);
        };
        let mut end = first + 1;
        for block in blocks {
            match block {
                block if block < end => {}
                block if block == end => end += 1,
                _ => break,
            }
        }
        let found = (first * 8 * ATOM).max(within.start)..(end * 8 * ATOM).min(within.end);
        Ok((!found.is_empty()).then_some(found))
    }
}
