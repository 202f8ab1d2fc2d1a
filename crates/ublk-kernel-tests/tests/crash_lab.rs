//! The crash lab finds maps that are written before the data that they name. The fault is planted in the order in which overlays
//! and lazy disks save; their files are on ext4, on a recorded disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use ublk_core::Spec;
use ublk_core::backend::{
    Bounds, File as Stored, Identity, Lazy, LogMemory, Lost, Map, Memory, Model, Moment, Overlay, Recorder,
    State, States, Storage,
};
use ublk_core::testing::MapFirst;
use ublk_kernel_tests::system::{Mount, run};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// Of the disks that are tested.
const SIZE: u64 = MIB;
const CHUNK: u64 = 16 << 10;
/// How often something is promised. The first time is before the power may fail.
const ROUNDS: u64 = 4;
/// A planted fault has to be found in so many states.
const BUDGET: u64 = 500;
/// Without it, so many are fine.
const SOUND: u64 = 8;

/// A disk with a map, in files of a directory.
struct Kind {
    open: fn(dir: &Path, base: &Path) -> Disk,
    /// What is promised in a round.
    change: fn(&File, u64),
    /// Whether all is there that was promised until a round, or maybe until the next one.
    check: fn(&File, u64) -> Result<(), String>,
}

/// Of the base, everywhere.
const OLD: u8 = 0xbb;

/// A round writes one sector in each of some blocks of 4 KiB: the file has the block since the first round, so what is written
/// to it later is there as soon as it is on the medium.
const OVERLAY: Kind = Kind {
    open: |dir, base| {
        let base = Arc::new(Stored::open(base, true, false).unwrap());
        Disk::start(&Spec::default(), Overlay::in_file(base, &dir.join("upper"), None, false).unwrap())
    },
    change: |disk, round| {
        for block in 0..4 {
            let data = Aligned::filled(SECTOR as usize, round as u8 + 1);
            disk.write_all_at(&data, (block * 8 + round) * SECTOR).unwrap();
        }
    },
    check: |disk, last| {
        let mut data = Aligned::new(SIZE as usize);
        disk.read_exact_at(&mut data, 0).unwrap();
        for (number, sector) in (0..).zip(data.chunks_exact(SECTOR as usize)) {
            let (block, round) = (number / 8, number % 8);
            let new = round as u8 + 1;
            let may_be: &[u8] = match block < 4 {
                true if round <= last => &[new],
                true if round == last + 1 && round < ROUNDS => &[OLD, new],
                _ => &[OLD],
            };
            if !may_be.iter().any(|byte| sector.iter().all(|found| found == byte)) {
                return Err(format!("sector {number} has {:x}, not one of {may_be:x?}", sector[0]));
            }
        }
        Ok(())
    },
};

/// A round fetches a chunk.
const LAZY: Kind = Kind {
    open: |dir, _| {
        let (storage, found) = Stored::open_or_create(&dir.join("cache"), SIZE, false).unwrap();
        let identity = Identity { size: SIZE, chunk: CHUNK, name: "image".into() };
        let map = Map::open(&dir.join("map"), &identity, found).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(storage);
        Disk::start(&Spec::default(), Lazy::new(storage, map, Image::new(CHUNK)).unwrap())
    },
    change: |disk, round| {
        disk.read_exact_at(&mut Aligned::new(CHUNK as usize), round * 3 * CHUNK).unwrap();
    },
    check: |disk, _| {
        let mut data = Aligned::new(SIZE as usize);
        disk.read_exact_at(&mut data, 0).unwrap();
        first_wrong(&data, 0).map_or(Ok(()), |at| Err(format!("byte {at} is not the image's")))
    },
};

/// A recorded disk with the files of a disk of some kind.
struct Lab<'a> {
    kind: &'a Kind,
    base: &'a Path,
    recorder: Arc<Recorder>,
    _disk: Disk,
}

/// A state that its kind of disk does not survive.
struct Found {
    /// The number of states that were tried.
    tried: u64,
    why: String,
    /// The fewest losses found that are enough for that; none: it does not survive that moment whatever is there.
    lost: Vec<Lost>,
}

impl<'a> Lab<'a> {
    fn record(kind: &'a Kind, base: &'a Path, planted: bool) -> Self {
        let log = LogMemory::new(1 << 30).unwrap();
        let recorder = Recorder::new(Arc::new(Memory::new(16 * MIB).unwrap()), Arc::new(log), 4096);
        let recorder = Arc::new(recorder.unwrap().over_zeroes());
        let disk = Disk::share(&Spec::default(), recorder.clone());
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.path()]);
        let mount = Mount::of(&disk.path());
        let planted = planted.then(MapFirst::plant);
        let stored = (kind.open)(mount.path(), base);
        let file = stored.open();
        for round in 0..ROUNDS {
            (kind.change)(&file, round);
            file.sync_all().unwrap();
            recorder.mark(&round.to_string());
        }
        drop(file);
        stored.finish();
        drop((planted, mount));
        Self { kind, base, recorder, _disk: disk }
    }

    fn states(&self, budget: u64) -> States {
        let moments = self.recorder.between(Some("0"), None).unwrap();
        let (unit, sectors) = (self.recorder.unit(), self.recorder.sectors());
        self.recorder.states(Bounds { model: Model::Torn, moments, budget, unit, seed: 1, sectors })()
    }

    fn check(&self, states: &States, state: &State) -> Result<(), String> {
        let marks = states.log().marks().iter().take_while(|mark| mark.at < state.cut);
        let last = marks.last().unwrap().name.parse().unwrap();
        let content = Overlay::in_memory(Arc::new(self.recorder.view(state)), None).unwrap();
        let crashed = Disk::start(&Spec::default(), content);
        let mount = Mount::of(&crashed.path());
        let stored = (self.kind.open)(mount.path(), self.base);
        let checked = (self.kind.check)(&stored.open(), last);
        stored.finish();
        drop(mount);
        crashed.finish();
        checked
    }

    /// The fewest losses of a state, some whole writes, with which it still fails.
    fn least(&self, states: &mut States, state: &State) -> Vec<Lost> {
        let mut fails = |lost: &[Lost]| {
            let less = states.without(state.cut, lost, &*self.recorder).unwrap();
            self.check(states, &less).is_err().then_some(less.lost)
        };
        if fails(&[]).is_some() {
            return self.unwritten(states, state.cut);
        }
        let mut least = state.lost.clone();
        for write in writes(&least) {
            let without: Vec<_> = least.iter().filter(|lost| lost.write != write).cloned().collect();
            least = fails(&without).unwrap_or(least);
        }
        least
    }

    /// What was not written yet at a moment at which not even the newest content is survived: without this write, a later one is
    /// not survived either.
    fn unwritten(&self, states: &mut States, moment: Moment) -> Vec<Lost> {
        for (cut, write) in states.later(moment) {
            let newest = states.without(cut, &[], &*self.recorder).unwrap();
            if self.check(states, &newest).is_ok() {
                let without = states.without(cut, &[write], &*self.recorder).unwrap();
                self.check(states, &without).unwrap_err();
                return without.lost;
            }
        }
        Vec::new()
    }

    /// The first state that is not survived because of what it lacks: at moments where even the newest content is not survived,
    /// no other is tried.
    fn find(&self, budget: u64) -> Result<Found, u64> {
        let (mut states, mut tried, mut hopeless) = (self.states(budget), 0, BTreeSet::<Moment>::new());
        while let Some(state) = states.next(&*self.recorder).unwrap() {
            tried += 1;
            if hopeless.contains(&state.cut) {
                continue;
            }
            let Err(why) = self.check(&states, &state) else { continue };
            let lost = self.least(&mut states, &state);
            if !lost.is_empty() {
                return Ok(Found { tried, why, lost });
            }
            hopeless.insert(state.cut);
        }
        if hopeless.is_empty() {
            Err(tried)
        } else {
            panic!("{tried} states: {hopeless:?} lack nothing, and fail")
        }
    }
}

fn writes(lost: &[Lost]) -> BTreeSet<usize> {
    lost.iter().map(|lost| lost.write).collect()
}

fn the_order_matters(kind: &Kind) {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let base = dir.path().join("base");
    std::fs::write(&base, vec![OLD; SIZE as usize]).unwrap();
    match Lab::record(kind, &base, false).find(SOUND) {
        Err(tried) => assert_eq!(tried, SOUND),
        Ok(Found { tried, why, lost }) => panic!("state {tried} of the right order: {why}: {lost:?}"),
    }
    match Lab::record(kind, &base, true).find(BUDGET) {
        Err(tried) => panic!("it survives {tried} states"),
        Ok(Found { tried, why, lost }) => {
            println!("found in {tried} states: {why}: {lost:?}");
            assert!(writes(&lost).len() <= 3, "{lost:?}");
        }
    }
}

#[test]
fn an_overlay_whose_map_is_written_before_its_data_is_found() {
    the_order_matters(&OVERLAY);
}

#[test]
fn a_lazy_disk_whose_map_is_written_before_its_data_is_found() {
    the_order_matters(&LAZY);
}
