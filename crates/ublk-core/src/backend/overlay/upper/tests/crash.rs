//! Every state that a kill or a power failure may leave, on a medium in memory.

use super::volatile::{ATOM, Volatile};
use crate::backend::map_file::Stamp;
use crate::backend::overlay::upper::format::{Header, SECTOR};
use crate::backend::overlay::upper::medium::Medium;
use crate::backend::overlay::upper::store::Store;
use crate::backend::overlay::upper::{Shape, Uuid};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;

const SIZE: u64 = 1 << 30;
/// Where a power failure may leave more, some are tried.
const MOST_STATES: u128 = 64;

#[derive(Debug, Clone)]
enum Step {
    /// Sectors.
    Write(Range<u64>),
    Flush,
    Reset,
    /// The server is killed, after some more calls of the system, and another one begins.
    Kill,
    /// So the power fails.
    Power,
    /// Saves fail for a while.
    Full,
}

/// What a client knows about a sector.
#[derive(Debug, Clone, Default)]
struct Sector {
    /// What it wrote, from the oldest.
    versions: Vec<u64>,
    /// The last of these that was answered.
    answered: Option<usize>,
    /// The last of these that was answered before a flush began that has succeeded.
    flushed: Option<usize>,
}

struct Disk {
    store: Store<Volatile>,
    sectors: BTreeMap<u64, Sector>,
    boot: u8,
    version: u64,
    resetting: bool,
    /// A sync has failed in this boot: only what was flushed before is certain.
    failed: bool,
}

fn stamp(boot: u8) -> Stamp {
    Stamp { boot: [boot; 36], place: 7 }
}

impl Disk {
    fn new(medium: Volatile) -> Self {
        let shape = Shape {
            size: SIZE,
            block_size: 512,
            base: "the base",
            parent: None,
            alone: false,
            committing: false,
            file: None,
        };
        let header = Header::new(&shape, Uuid([3; 16]), stamp(1)).unwrap();
        let store = Store::create(medium, header).unwrap();
        Self { store, sectors: BTreeMap::new(), boot: 1, version: 0, resetting: false, failed: false }
    }

    /// One whose saves lack the sync between the data and the tables.
    fn hasty() -> Self {
        let disk = Self::new(Volatile::new());
        let layout = disk.store.layout();
        disk.store.medium().skip_syncs(layout.whole().start / ATOM..layout.partial().end / ATOM);
        disk
    }

    fn write(&mut self, sectors: Range<u64>) -> io::Result<()> {
        self.version += 1;
        let content: Vec<u8> = self.version.to_le_bytes().repeat(64);
        for sector in sectors.clone() {
            self.sectors.entry(sector).or_default().versions.push(self.version);
        }
        let (medium, data) = (self.store.medium(), self.store.layout().data());
        for sector in sectors.clone() {
            medium.write(&content, data + sector * SECTOR)?;
        }
        let range = sectors.start * SECTOR..sectors.end * SECTOR;
        self.store.note(std::slice::from_ref(&range))?;
        for sector in sectors {
            let sector = self.sectors.entry(sector).or_default();
            sector.answered = Some(sector.versions.len() - 1);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.store.save()?;
        self.sectors.values_mut().for_each(|sector| sector.flushed = sector.answered);
        assert!(!self.store.unsaved());
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.resetting = true;
        self.store.reset()?;
        self.resetting = false;
        self.sectors.clear();
        Ok(())
    }

    /// Fails if the process was killed meanwhile.
    fn step(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Write(sectors) => self.write(sectors.clone()),
            Step::Flush => self.flush(),
            Step::Reset => self.reset(),
            Step::Full => {
                self.store.medium().full.store(true, std::sync::atomic::Ordering::SeqCst);
                let saved = self.store.save();
                self.store.medium().full.store(false, std::sync::atomic::Ordering::SeqCst);
                match saved {
                    Err(error) if error.raw_os_error() != Some(libc::ENOSPC) => return Err(error), // killed
                    saved => assert!(saved.is_ok() || self.store.unsaved()),
                }
                assert!(!self.store.failed());
                Ok(())
            }
            Step::Kill | Step::Power => Ok(()),
        }
    }

    fn open(medium: Volatile, boot: u8) -> Store<Volatile> {
        let mut page = [0; 4096];
        medium.read(&mut page, 0).unwrap();
        let header = Header::of(Path::new("upper"), &page).unwrap();
        Store::open(medium, header, stamp(boot)).unwrap()
    }

    /// The next server's view of each sector that is present.
    fn seen(store: &Store<Volatile>) -> BTreeMap<u64, u64> {
        let mut present = BTreeSet::new();
        let mut add = |range: Range<u64>| present.extend(range.start / SECTOR..range.end / SECTOR);
        store.present(&mut add).unwrap();
        let read = |sector: u64| {
            let mut bytes = [0; 512];
            store.medium().read(&mut bytes, store.layout().data() + sector * SECTOR).unwrap();
            let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes.chunks(8).all(|part| part == &bytes[..8]), "sector {sector} is torn");
            (sector, version)
        };
        present.into_iter().map(read).collect()
    }

    /// Whether the sectors are as they may be, if only the writes until `certain` are.
    fn check(
        &self,
        seen: &BTreeMap<u64, u64>,
        certain: impl Fn(&Sector) -> Option<usize>,
    ) -> Result<(), String> {
        for (at, sector) in &self.sectors {
            let certain = certain(sector);
            match (seen.get(at), certain) {
                (None, None) => {}
                (None, Some(_)) => return Err(format!("sector {at} is lost: {sector:?}")),
                (Some(0), _) => return Err(format!("sector {at} is a hole: {sector:?}")),
                (Some(version), certain) => {
                    let may = &sector.versions[certain.unwrap_or(0)..];
                    if !may.contains(version) {
                        return Err(format!("sector {at} has version {version}: {sector:?}"));
                    }
                }
            }
        }
        match seen.keys().find(|at| !self.sectors.contains_key(at)) {
            Some(at) => Err(format!("sector {at} was never written")),
            None => Ok(()),
        }
    }

    /// The next server begins, on what a crash has left.
    fn crash(&self, medium: Volatile, power: bool) -> Self {
        let boot = self.boot + u8::from(power);
        let store = Self::open(medium, boot);
        let seen = Self::seen(&store);
        let certain = |sector: &Sector| match power || self.failed {
            true => sector.flushed,
            false => sector.answered,
        };
        let mut sectors = self.sectors.clone();
        if self.resetting && seen.is_empty() {
            sectors.clear();
        } else {
            self.check(&seen, certain).unwrap();
        }
        // What it sees now, it will see.
        for (at, sector) in &mut sectors {
            let Some(version) = seen.get(at) else {
                *sector = Sector::default();
                continue;
            };
            let found = sector.versions.iter().position(|other| other == version);
            if power {
                *sector = Sector { versions: vec![*version], answered: Some(0), flushed: Some(0) };
            } else if !self.failed {
                sector.answered = found;
            }
        }
        Self { store, sectors, boot, resetting: false, failed: self.failed && !power, version: self.version }
    }

    fn killed(&self) -> Self {
        let medium = self.store.medium().after_kill();
        self.crash(medium, false)
    }

    fn without_power(&self, choose: impl FnMut(usize) -> usize) -> Self {
        let medium = self.store.medium().after_power_failure(choose);
        self.crash(medium, true)
    }
}

/// A source of numbers that is the same each time.
pub fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    }
}

/// Whole blocks, parts of blocks, on both sides of a byte, a word and a page of the tables.
fn scenario() -> Vec<Step> {
    let border = (128 << 20) / SECTOR;
    vec![
        Step::Write(0..8),
        Step::Write(9..11),
        Step::Flush,
        Step::Write(3..5),
        Step::Write(11..24),
        Step::Write(border - 8..border + 3),
        Step::Flush,
        Step::Write(60..70),
        Step::Write(border..border + 8),
        Step::Flush,
        Step::Write(0..16),
    ]
}

/// Runs the steps, and ends with each crash at each moment.
fn at_each_moment(steps: &[Step], disk: impl Fn() -> Disk) -> (usize, u128) {
    let (mut moments, mut states) = (0, 0);
    for moment in 0.. {
        let mut disk = disk();
        disk.store.medium().dies_after(moment);
        let ended = steps.iter().try_for_each(|step| disk.step(step)).is_ok();
        disk.killed();
        let possible = disk.store.medium().states();
        let all = possible <= MOST_STATES;
        for state in 0..possible.min(MOST_STATES) {
            let mut rest = state;
            let mut random = numbers((state as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let next = disk.without_power(|versions| {
                let digit = (rest % versions as u128) as usize;
                rest /= versions as u128;
                match (all, state) {
                    (true, _) => digit,
                    (false, 0) => 0,
                    (false, 1) => versions - 1,
                    _ => random(versions),
                }
            });
            if state % 8 == 0 {
                next.without_power(&mut random); // right after that it changes nothing that is certain now
            }
            states += 1;
        }
        moments += 1;
        if ended {
            break;
        }
    }
    (moments, states)
}

#[test]
fn at_each_moment_a_crash_leaves_what_was_flushed_and_no_hole() {
    let (moments, states) = at_each_moment(&scenario(), || Disk::new(Volatile::new()));
    assert!(moments > 100 && states > 3000, "{moments} moments, {states} states");
}

/// The test above finds the mistake that it is for.
#[test]
#[should_panic(expected = "is a hole")]
fn tables_that_are_written_before_the_data_is_synced_show_holes() {
    at_each_moment(&scenario(), Disk::hasty);
}

#[test]
fn a_reset_leaves_all_or_nothing() {
    let steps =
        [Step::Write(0..9), Step::Flush, Step::Write(20..30), Step::Reset, Step::Write(4..6), Step::Flush];
    let (moments, _) = at_each_moment(&steps, || Disk::new(Volatile::new()));
    assert!(moments > 40, "{moments}");
}

/// Nothing below it is read from then on.
#[test]
fn an_upper_says_that_nothing_lies_below_it_only_when_it_has_all_of_the_disk() {
    let (mut before, mut after) = (0, 0);
    for calls in 0.. {
        let mut disk = Disk::new(Volatile::new());
        disk.write(0..16).unwrap();
        disk.flush().unwrap();
        disk.write(100..117).unwrap();
        disk.store.medium().dies_after(calls);
        let done = disk.store.stand_alone().is_ok();
        for seed in 1..40 {
            let store = Disk::open(disk.store.medium().after_power_failure(numbers(seed)), 2);
            if store.header().alone {
                disk.check(&Disk::seen(&store), |sector| sector.answered).unwrap();
                after += 1;
            } else {
                disk.check(&Disk::seen(&store), |sector| sector.flushed).unwrap();
                assert!(!done, "it was durable");
                before += 1;
            }
        }
        if done {
            break;
        }
    }
    assert!(before > 40 && after > 20, "{before} {after}");
}

/// Whoever has seen what the last server left finds that another one has written since, whatever a power failure leaves.
#[test]
fn the_name_of_a_server_is_durable_before_it_writes() {
    let shape = Shape { size: SIZE, block_size: 512, base: "base", ..Shape::default() };
    let header = Header::new(&shape, Uuid([1; 16]), stamp(1)).unwrap();
    let store = Store::create(Volatile::new(), header).unwrap();
    store.begin_to_write(Uuid([2; 16])).unwrap();
    let (data, length) = (store.layout().data(), SECTOR as usize);
    store.medium().write(&vec![1; length], data).unwrap(); // of a saved sector, which is synced alone
    for seed in 1..40 {
        let left = store.medium().after_power_failure(numbers(seed));
        let mut page = [0; 4096];
        left.read(&mut page, 0).unwrap();
        let found = Header::of(Path::new("upper"), &page).unwrap();
        assert_eq!(found.server, Uuid([2; 16]), "seed {seed}");
    }
}

#[test]
fn a_server_whose_name_is_not_durable_does_not_begin_to_write() {
    let shape = Shape { size: SIZE, block_size: 512, base: "base", ..Shape::default() };
    let header = Header::new(&shape, Uuid([1; 16]), stamp(1)).unwrap();
    let store = Store::create(Volatile::new(), header).unwrap();
    store.medium().sync_fails_after(0);
    assert!(store.begin_to_write(Uuid([2; 16])).is_err());
    assert_eq!(store.header().server, Uuid::NONE);
}

#[test]
fn a_save_that_finds_no_space_is_no_loss_and_the_next_one_ends_it() {
    let steps = [
        Step::Write(0..9),
        Step::Flush,
        Step::Write((200 << 11)..(200 << 11) + 12),
        Step::Full,
        Step::Write(50..70),
        Step::Full,
        Step::Flush,
    ];
    at_each_moment(&steps, || Disk::new(Volatile::new()));
    let mut disk = Disk::new(Volatile::new());
    steps[..4].iter().for_each(|step| disk.step(step).unwrap());
    assert!(disk.store.unsaved() && !disk.store.failed(), "the table has no page there yet");
}

/// The kernel drops what it could not write, and reports that once.
#[test]
fn after_a_failed_sync_nothing_is_saved_and_what_was_flushed_stays() {
    for syncs in 0..8 {
        for kill in [false, true] {
            for seed in 1..40 {
                let mut disk = Disk::new(Volatile::new());
                disk.store.medium().sync_fails_after(syncs);
                for step in scenario() {
                    disk.failed |= disk.step(&step).is_err();
                    assert_eq!(disk.store.failed(), disk.failed);
                    assert!(!disk.failed || disk.store.unsaved() && disk.store.save().is_err());
                }
                assert_eq!(disk.failed, syncs < 6);
                if kill {
                    disk = disk.killed();
                }
                disk.without_power(numbers(seed));
            }
        }
    }
}

fn a_step() -> impl Strategy<Value = Step> {
    let places = prop_oneof![0..60_u64, (128 << 11) - 30..(128 << 11) + 30_u64];
    prop_oneof![
        8 => (places, 1..30_u64).prop_map(|(from, count)| Step::Write(from..from + count)),
        3 => Just(Step::Flush),
        1 => Just(Step::Reset),
        1 => Just(Step::Kill),
        1 => Just(Step::Power),
        1 => Just(Step::Full),
    ]
}

fn any_order(steps: Vec<(Step, usize)>, seed: u64) {
    let mut disk = Disk::new(Volatile::new());
    let mut choose = numbers(seed | 1);
    for (at, (step, calls)) in steps.iter().enumerate() {
        let next = steps.get(at + 1).map(|next| &next.0);
        // The crash comes amid this step.
        if matches!(next, Some(Step::Kill | Step::Power)) {
            disk.store.medium().dies_after(*calls);
        }
        let done = disk.step(step);
        assert!(done.is_ok() || disk.store.medium().is_dead(), "{step:?}: {done:?}");
        disk = match step {
            Step::Kill => disk.killed(),
            Step::Power => disk.without_power(&mut choose),
            _ => disk,
        };
    }
    disk.killed().without_power(choose);
}

proptest! {
    #[test]
    fn any_order_of_writes_flushes_resets_and_crashes(
        steps in prop::collection::vec((a_step(), 0..80_usize), 1..40),
        seed: u64,
    ) {
        any_order(steps, seed);
    }
}
