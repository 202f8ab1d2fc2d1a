mod together;
mod watch;

use super::*;
use crate::backend::testing::Bench;
use crate::backend::{File, Memory, Overlay, Storage};
use crate::queue::{Descriptor, Op, Outcome};
use crate::request::{ClientPlace, Flags};

const MAX_IO: u32 = 64 << 10;
const SIZE: u64 = 1 << 20;

fn recorder() -> Arc<Recorder> {
    let (base, data) = (Memory::new(SIZE).unwrap(), Memory::new(16 << 20).unwrap());
    Arc::new(Recorder::new(Arc::new(base), Arc::new(data), 512).unwrap())
}

/// A recorded disk answers a change at the end of the turn.
fn change(bench: &mut Bench, what: Descriptor) -> Outcome {
    if let Some(outcome) = bench.start(0, what) {
        return outcome;
    }
    let [(0, outcome)] = bench.turn()[..] else { panic!("one is answered") };
    outcome
}

fn write(bench: &mut Bench, offset: u64, data: &[u8], flags: Flags) {
    bench.buffer(0)[..data.len()].copy_from_slice(data);
    let what = Descriptor { flags, ..Descriptor::new(Op::Write, offset, data.len() as u64) };
    assert_eq!(change(bench, what), Ok(u32::try_from(data.len()).unwrap()));
}

fn flush(bench: &mut Bench) {
    assert!(bench.start(0, Descriptor::new(Op::Flush, 0, 0)).unwrap().is_ok());
}

fn read(bench: &mut Bench, offset: u64, length: usize) -> Vec<u8> {
    bench.buffer(0)[..length].fill(0xee);
    assert!(bench.start(0, Descriptor::new(Op::Read, offset, length as u64)).unwrap().is_ok());
    bench.buffer(0)[..length].to_vec()
}

#[test]
fn a_recorded_disk_reads_back_what_was_written_last() {
    let recorder = recorder();
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    assert_eq!(read(&mut bench, 0, 4096), [0; 4096]);
    write(&mut bench, 1024, &[1; 4096], Flags::NONE);
    write(&mut bench, 2048, &[2; 512], Flags::FUA);
    assert_eq!(change(&mut bench, Descriptor::new(Op::Discard, 3072, 512)), Ok(512));
    flush(&mut bench);
    let expected = [
        vec![0; 1024],
        vec![1; 1024],
        vec![2; 512],
        vec![1; 512],
        vec![0; 512],
        vec![1; 1536],
        vec![0; 1024],
    ];
    assert_eq!(read(&mut bench, 0, 6144), expected.concat());
    let log = recorder.log();
    assert_eq!((log.writes().len(), log.flushes().len()), (3, 1));
    assert!(log.writes()[1].flags.has(Flags::FUA) && log.writes()[2].place == Origin::ZERO);
}

#[test]
fn after_a_cut_requests_fail_until_the_disk_is_on_again_in_one_of_its_states() {
    for seed in 0..4 {
        let recorder = recorder();
        let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
        write(&mut bench, 0, &[1; 512], Flags::NONE);
        flush(&mut bench);
        write(&mut bench, 0, &[2; 512], Flags::NONE);
        let states = self::states(&recorder);
        assert_eq!(states.len(), 2);
        for (state, expected) in states.iter().zip([2, 1]) {
            let view = Arc::new(recorder.view(state));
            // Writable, and thrown away.
            let mut disk = Bench::new(Arc::new(Overlay::in_memory(view.clone(), None).unwrap()), 1, MAX_IO);
            assert_eq!(read(&mut disk, 0, 512), [expected; 512]);
            write(&mut disk, 0, &[9; 512], Flags::NONE);
            assert_eq!(read(&mut disk, 0, 512), [9; 512]);
            assert_eq!(read(&mut Bench::new(view, 1, MAX_IO), 0, 512), [expected; 512]);
        }
        let now = recorder.log().now();
        recorder.cut(Model::Torn, seed).unwrap();
        assert!(recorder.cut(Model::Torn, seed).unwrap_err().to_string().contains("off already"));
        assert!(bench.start(0, Descriptor::new(Op::Read, 0, 512)).unwrap().is_err());
        recorder.restore().unwrap();
        assert_eq!(read(&mut bench, 0, 512), [1; 512], "what can be lost is lost");
        write(&mut bench, 512, &[3; 512], Flags::NONE);
        assert!(recorder.log().writes()[0].start >= now, "the clock goes on");
        assert_eq!(read(&mut bench, 512, 512), [3; 512]);
        // What was there when it was switched on is certain.
        assert_eq!(self::states(&recorder).len(), 2);
    }
}

/// How many of the first sectors do not have what was written to them.
fn lost(bench: &mut Bench, expected: &[u8]) -> Vec<usize> {
    let found = read(bench, 0, expected.len() * 512);
    (0..expected.len()).filter(|at| found[at * 512] != expected[*at]).collect()
}

#[test]
fn a_cut_of_an_empty_disk_leaves_it_empty() {
    for model in [Model::Misdirected, Model::BitRot, Model::Torn] {
        let recorder = recorder();
        recorder.cut(model, 0).unwrap();
        recorder.restore().unwrap();
        assert_eq!(read(&mut Bench::new(recorder, 1, MAX_IO), 0, 512), [0; 512]);
    }
}

#[test]
fn each_cut_loses_something_and_not_always_the_same() {
    for seed in [0, 1, 256] {
        let recorder = recorder();
        let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
        let mut found = std::collections::HashSet::new();
        for round in 1..=20 {
            for sector in 0..4 {
                write(&mut bench, sector * 512, &[round; 512], Flags::NONE);
            }
            recorder.cut(Model::Torn, seed).unwrap();
            recorder.restore().unwrap();
            let lost = lost(&mut bench, &[round; 4]);
            assert!(!lost.is_empty(), "seed {seed}, round {round}");
            found.insert(lost);
        }
        assert!(found.len() > 5, "seed {seed}: {found:?}");
        // Nothing can be lost.
        flush(&mut bench);
        let now = read(&mut bench, 0, 2048);
        recorder.cut(Model::Torn, seed).unwrap();
        recorder.restore().unwrap();
        assert_eq!(read(&mut bench, 0, 2048), now);
    }
}

/// A recorded disk whose log is a file: its requests go through the ring.
fn recorder_with_a_file(dir: &tempfile::TempDir) -> Arc<Recorder> {
    let (file, _) = File::open_or_create(&dir.path().join("log"), 1 << 20, false).unwrap();
    file.begin().unwrap();
    let base = Arc::new(Memory::new(SIZE).unwrap());
    Arc::new(Recorder::new(base, Arc::new(file), 512).unwrap())
}

/// Serves what waits to its end.
fn finish(bench: &mut Bench) -> Outcome {
    let began = std::time::Instant::now();
    loop {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "it is not answered");
        if let Some((_, outcome)) = bench.turn().pop() {
            return outcome;
        }
    }
}

#[test]
fn reads_in_flight_at_a_cut_fail() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder_with_a_file(&dir);
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    let read = Descriptor::new(Op::Read, 0, 512);
    for restored in [false, true] {
        assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 512)), None);
        assert_eq!(finish(&mut bench), Ok(512));
        assert_eq!(bench.start(0, read), None);
        recorder.cut(Model::Torn, 0).unwrap();
        if restored {
            recorder.restore().unwrap();
        }
        assert_eq!(finish(&mut bench), Err(libc::EIO), "on again: {restored}");
        if !restored {
            recorder.restore().unwrap();
        }
    }
}

#[test]
fn a_read_in_shared_memory_may_be_of_data_and_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(recorder_with_a_file(&dir), 1, MAX_IO);
    let memory = dir.path().join("memory");
    std::fs::write(&memory, [0xee; 1 << 16]).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&memory).unwrap();
    let shared = Some(ClientPlace { memory: bench.share(file), offset: 4096 });
    bench.buffer(0)[..2048].fill(7);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 2048)), None);
    assert_eq!(finish(&mut bench), Ok(2048));
    assert_eq!(change(&mut bench, Descriptor::new(Op::Discard, 512, 512)), Ok(512));
    assert_eq!(bench.start(0, Descriptor { shared, ..Descriptor::new(Op::Read, 0, 4096) }), None);
    assert_eq!(finish(&mut bench), Ok(4096));
    let found = std::fs::read(&memory).unwrap();
    let expected = [vec![7; 512], vec![0; 512], vec![7; 1024], vec![0; 2048]];
    assert_eq!(found[4096..8192], expected.concat());
    assert!(found[..4096].iter().chain(&found[8192..]).all(|byte| *byte == 0xee));
}

#[test]
fn a_write_in_flight_to_a_file_counts_when_its_data_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder_with_a_file(&dir);
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 512)), None);
    assert_eq!(states(&recorder).len(), 1);
    recorder.cut_at(Trigger::Mark("now".into()));
    recorder.mark("now");
    assert_eq!(finish(&mut bench), Err(libc::EIO));
    assert_eq!(states(&recorder).len(), 2, "it was started before the cut");
}

/// A log's data that nobody can look at while a test holds the lock.
struct Slow {
    memory: Arc<Memory>,
    held: Mutex<()>,
}

impl Backend for Slow {
    fn properties(&self) -> Properties {
        self.memory.properties()
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.memory.copy_modes()
    }

    fn places(&self) -> Vec<claim::Place<'_>> {
        self.memory.places()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        self.memory.clone().engine(site)
    }
}

impl Storage for Slow {
    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.store(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.memory.sync()
    }
}

impl Readable for Slow {
    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let _held = self.held.lock().unwrap();
        self.memory.load(offset, into)
    }
}

#[test]
fn nobody_waits_while_it_is_chosen_what_is_left() {
    let memory = Arc::new(Memory::new(1 << 20).unwrap());
    let data = Arc::new(Slow { memory, held: Mutex::default() });
    let base = Arc::new(Memory::new(SIZE).unwrap());
    let recorder = Arc::new(Recorder::new(base, data.clone(), 512).unwrap());
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    write(&mut bench, 0, &[1; 512], Flags::NONE);
    bench.buffer(0)[..512].fill(2);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 512, 512)), None);
    std::thread::scope(|scope| {
        let held = data.held.lock().unwrap();
        let cut = scope.spawn(|| recorder.cut(Model::Torn, 0));
        while !recorder.is_off() {
            std::thread::yield_now();
        }
        assert_eq!(bench.turn(), [(0, Err(libc::EIO))]);
        recorder.mark("still off");
        let _prepared_elsewhere = recorder.states(bounds(&recorder, Model::Torn));
        assert!(recorder.restore().unwrap_err().to_string().contains("not chosen yet"));
        assert!(recorder.cut(Model::Torn, 0).is_err());
        drop(held);
        cut.join().unwrap().unwrap();
    });
    recorder.restore().unwrap();
}

#[test]
fn the_power_fails_at_the_event_that_was_asked_for() {
    let recorder = recorder();
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    recorder.cut_at(Trigger::Write(2));
    write(&mut bench, 0, &[1; 512], Flags::NONE);
    assert!(!recorder.is_off());
    write(&mut bench, 0, &[2; 512], Flags::NONE);
    assert!(recorder.is_off());
    assert!(bench.start(0, Descriptor::new(Op::Flush, 0, 0)).unwrap().is_err());
    assert!(recorder.restore().is_err(), "what it has then is not chosen yet");
    recorder.cut(Model::Prefix, 0).unwrap();
    recorder.restore().unwrap();
    recorder.cut_at(Trigger::Flush(2));
    flush(&mut bench);
    assert!(!recorder.is_off());
    flush(&mut bench);
    assert!(recorder.is_off());
    recorder.cut(Model::Prefix, 0).unwrap();
    // It is for when the power is on.
    recorder.cut_at(Trigger::Mark("paid".into()));
    recorder.mark("paid");
    recorder.restore().unwrap();
    assert!(!recorder.is_off());
    recorder.mark("ordered");
    assert!(!recorder.is_off());
    recorder.mark("paid");
    assert!(recorder.is_off());
}

#[test]
fn a_flush_covers_no_write_that_was_not_answered_when_it_came() {
    let recorder = recorder();
    let mut bench = Bench::new(recorder.clone(), 3, MAX_IO);
    bench.buffer(0)[..512].fill(1);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 512)), None);
    assert_eq!(bench.start(1, Descriptor::new(Op::Flush, 0, 0)), Some(Ok(0)));
    assert_eq!(bench.turn(), [(0, Ok(512))]);
    assert_eq!(states(&recorder).len(), 2, "the write may be lost");
    assert_eq!(bench.start(1, Descriptor::new(Op::Flush, 0, 0)), Some(Ok(0)));
    assert_eq!(states(&recorder).len(), 1);
}

#[test]
fn the_changes_of_a_turn_are_logged_in_order_up_to_the_cut() {
    let recorder = recorder();
    let mut bench = Bench::new(recorder.clone(), 3, MAX_IO);
    recorder.cut_at(Trigger::Write(2));
    for tag in 0..3 {
        bench.buffer(tag)[..512].fill(1 + u8::try_from(tag).unwrap());
        assert_eq!(bench.start(tag, Descriptor::new(Op::Write, 0, 512)), None);
    }
    let mut answers = bench.turn();
    answers.sort_by_key(|(tag, _)| *tag);
    assert_eq!(answers, [(0, Ok(512)), (1, Ok(512)), (2, Err(libc::EIO))]);
    assert!(recorder.is_off());
    assert_eq!(recorder.log().writes().len(), 2);
    // The third one was in flight.
    assert_eq!(first_sectors(&recorder, Model::Torn), [3, 2, 0, 1]);
}

/// What the first byte of the disk may be after a cut.
fn first_sectors(recorder: &Arc<Recorder>, model: Model) -> Vec<u8> {
    let first = |state| {
        let view = Arc::new(recorder.view(&state));
        read(&mut Bench::new(view, 1, MAX_IO), 0, 512)[0]
    };
    states_of(recorder, model).into_iter().map(first).collect()
}

#[test]
fn writes_in_flight_at_a_cut_may_be_there_in_part() {
    let mut found = std::collections::HashSet::new();
    for seed in 0..20 {
        let recorder = recorder();
        let mut bench = Bench::new(recorder.clone(), 2, MAX_IO);
        bench.buffer(0)[..1024].fill(1);
        bench.buffer(1)[..512].fill(2);
        assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 1024)), None);
        assert_eq!(bench.start(1, Descriptor::new(Op::Write, 1024, 512)), None);
        recorder.cut(Model::Torn, seed).unwrap();
        assert_eq!(bench.turn().iter().filter(|(_, outcome)| outcome.is_err()).count(), 2);
        assert_eq!(states(&recorder).len(), 8, "any of the three sectors");
        assert!(first_sectors(&recorder, Model::Garbage).iter().any(|byte| ![0, 1].contains(byte)));
        recorder.restore().unwrap();
        found.insert(lost(&mut bench, &[1, 1, 2]));
        assert_eq!(states(&recorder).len(), 1, "what was in flight then is not any more");
    }
    assert!(found.len() > 3 && found.contains(&vec![1]), "{found:?}");
}

#[test]
fn a_write_in_flight_belongs_to_the_states_of_a_disk_in_use() {
    let recorder = recorder();
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    bench.buffer(0)[..512].fill(1);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 512)), None);
    let (now, before) = (recorder.log().now(), states(&recorder));
    assert_eq!(before.len(), 2);
    assert_eq!(bench.turn(), [(0, Ok(512))]);
    write(&mut bench, 0, &[2; 512], Flags::NONE);
    flush(&mut bench);
    assert_eq!(states(&recorder).len(), 1);
    // At that moment, it is what it was.
    let mut later = recorder.states(Bounds { moments: now..now, ..bounds(&recorder, Model::Torn) })();
    for state in before {
        let again = later.replay(now, state.number.unwrap(), &*recorder).unwrap().unwrap();
        assert_eq!((&again.lost, again.content.of(0)), (&state.lost, state.content.of(0)));
    }
    recorder.cut(Model::Torn, 0).unwrap();
    recorder.restore().unwrap();
    let mut later = recorder.states(bounds(&recorder, Model::Torn))();
    assert!(later.replay(now, 0, &*recorder).unwrap().is_none(), "that is forgotten");
    assert!(later.replay(recorder.log().now(), 0, &*recorder).unwrap().is_some());
}

#[test]
fn a_state_claims_the_base_and_ends_with_the_recorded_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base");
    std::fs::write(&path, [0; 4096]).unwrap();
    let base = Arc::new(File::open(&path, true, false).unwrap());
    let recorder = Recorder::new(base, Arc::new(Memory::new(1 << 20).unwrap()), 512).unwrap();
    let view = Arc::new(recorder.view(&states(&recorder)[0]));
    let disk = Overlay::in_memory(view.clone(), None).unwrap();
    let claimed: Vec<_> =
        disk.places().iter().map(|place| (place.role, place.path, place.writable)).collect();
    assert_eq!(claimed, [(claim::Role::Base, &*path, false)]);
    view.check().unwrap();
    recorder.close().unwrap();
    assert_eq!(view.check().unwrap_err().kind, ErrorKind::Closed);
}

#[test]
fn without_a_write_cache_nothing_that_was_answered_is_lost() {
    let recorder = recorder();
    let mut bench = Bench::without_write_cache(recorder.clone(), 1, MAX_IO);
    write(&mut bench, 0, &[1; 512], Flags::NONE);
    assert_eq!(states(&recorder).len(), 1);
}

fn bounds(recorder: &Recorder, model: Model) -> Bounds {
    let now = recorder.log().now();
    Bounds { model, moments: now..now, budget: 10, unit: 1, seed: 0, sectors: 2048 }
}

fn states_of(recorder: &Recorder, model: Model) -> Vec<crate::backend::crash::State> {
    let mut states = recorder.states(bounds(recorder, model))();
    std::iter::from_fn(|| states.next(recorder).unwrap()).collect()
}

fn states(recorder: &Recorder) -> Vec<crate::backend::crash::State> {
    states_of(recorder, Model::Torn)
}
