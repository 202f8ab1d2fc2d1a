//! A log in memory gets the data of a turn's writes together.

use super::*;
use crate::backend::{Below, Completion, Concat, Io, LogMemory, Piece, Step};
use crate::number::to_usize;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn recorder_with(data: LogMemory) -> Arc<Recorder> {
    Arc::new(Recorder::new(Arc::new(Memory::new(SIZE).unwrap()), Arc::new(data), 512).unwrap())
}

fn in_memory() -> Arc<Recorder> {
    recorder_with(LogMemory::new(16 << 20).unwrap())
}

/// A write that is answered at the end of the turn.
fn begin(bench: &mut Bench, tag: u16, offset: u64, data: &[u8]) {
    bench.buffer(tag)[..data.len()].copy_from_slice(data);
    assert_eq!(bench.start(tag, Descriptor::new(Op::Write, offset, data.len() as u64)), None);
}

/// The end of a turn: its answers in the order of the tags.
fn turn(bench: &mut Bench) -> Vec<Outcome> {
    let mut answers = bench.turn();
    answers.sort_by_key(|(tag, _)| *tag);
    answers.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What a part of the disk has: the ring reads it.
fn content(bench: &mut Bench, offset: u64, length: usize) -> Vec<u8> {
    bench.buffer(0)[..length].fill(0xee);
    let what = Descriptor::new(Op::Read, offset, length as u64);
    let outcome = bench.start(0, what).unwrap_or_else(|| finish(bench));
    assert_eq!(outcome, Ok(u32::try_from(length).unwrap()));
    bench.buffer(0)[..length].to_vec()
}

#[test]
fn more_writes_than_a_system_call_takes_are_where_the_log_says() {
    const DEPTH: u16 = 150;
    let recorder = in_memory();
    let mut bench = Bench::new(recorder.clone(), DEPTH, 4096);
    // Of different lengths, and every third one over the one before.
    let place = |tag: u16| (u64::from(tag - tag % 3 / 2) * 2048, 512 * (1 + usize::from(tag) % 4));
    for tag in 0..DEPTH {
        let (offset, length) = place(tag);
        begin(&mut bench, tag, offset, &vec![tag as u8 + 1; length]);
    }
    assert_eq!(recorder.log().writes(), [], "nothing is answered before the end of the turn");
    assert_eq!(turn(&mut bench), (0..DEPTH).map(|tag| Ok(place(tag).1 as u32)).collect::<Vec<_>>());
    let mut expected = vec![0; usize::from(DEPTH) * 2048];
    for tag in 0..DEPTH {
        let (offset, length) = place(tag);
        expected[to_usize(offset)..][..length].fill(tag as u8 + 1);
    }
    for (number, part) in expected.chunks(4096).enumerate() {
        assert_eq!(content(&mut bench, number as u64 * 4096, part.len()), part, "part {number}");
    }
    let (log, mut at) = (recorder.log(), 0);
    for (tag, write) in (0..).zip(log.writes()) {
        assert_eq!((write.sector * SECTOR, write.place), (place(tag).0, Origin::data(at)));
        let mut data = vec![0; place(tag).1];
        recorder.read(at, &mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == tag as u8 + 1), "write {tag}");
        at += data.len() as u64;
    }
}

#[test]
fn what_does_not_fit_into_the_log_fails_and_the_rest_of_the_turn_is_logged() {
    let recorder = recorder_with(LogMemory::new(2048).unwrap());
    let mut bench = Bench::new(recorder.clone(), 4, MAX_IO);
    begin(&mut bench, 0, 0, &[1; 1024]);
    begin(&mut bench, 1, 1024, &[2; 1536]);
    assert_eq!(bench.start(2, Descriptor::new(Op::Discard, 512, 512)), None);
    begin(&mut bench, 3, 4096, &[4; 512]);
    assert_eq!(turn(&mut bench), [Ok(1024), Err(libc::ENOSPC), Ok(512), Err(libc::ENOSPC)]);
    assert_eq!(content(&mut bench, 0, 1536), [[1; 512], [0; 512], [0; 512]].concat());
    begin(&mut bench, 0, 0, &[5; 512]);
    assert_eq!(turn(&mut bench), [Err(libc::ENOSPC)], "it stays full");
    flush(&mut bench);
    assert_eq!(recorder.log().writes().len(), 2);
    assert_eq!(states(&recorder).len(), 1, "nothing that failed is in flight");
}

#[test]
fn what_the_log_s_file_does_not_take_fails_and_the_rest_of_the_turn_is_logged() {
    // A file that cannot grow ends a system call as one does for which the kernel grants no memory: early, and the next one with
    // an error.
    let recorder = recorder_with(LogMemory::that_ends_at(8192, 1 << 20));
    let mut bench = Bench::new(recorder.clone(), 5, MAX_IO);
    for tag in 0..4 {
        begin(&mut bench, tag, u64::from(tag) * 3072, &[tag as u8 + 1; 3072]);
    }
    assert_eq!(bench.start(4, Descriptor::new(Op::Discard, 0, 512)), None);
    let failed = Err(libc::EPERM);
    assert_eq!(turn(&mut bench), [Ok(3072), Ok(3072), failed, failed, Ok(512)]);
    assert_eq!(
        bench.complaint().unwrap(),
        "cannot write to the log's data: Operation not permitted (os error 1)"
    );
    let expected = [vec![0; 512], vec![1; 2560], vec![2; 3072], vec![0; 6144]].concat();
    assert_eq!(content(&mut bench, 0, expected.len()), expected);
    flush(&mut bench);
    assert_eq!((recorder.log().writes().len(), states(&recorder).len()), (3, 1));
}

#[test]
fn the_writes_of_a_turn_behind_a_cut_were_in_flight() {
    let recorder = in_memory();
    let mut bench = Bench::new(recorder.clone(), 3, MAX_IO);
    recorder.cut_at(Trigger::Write(2));
    for tag in 0..3 {
        begin(&mut bench, tag, 0, &[tag as u8 + 1; 512]);
    }
    assert_eq!(turn(&mut bench), [Ok(512), Ok(512), Err(libc::EIO)]);
    let found: Vec<_> = states_of(&recorder, Model::Torn)
        .into_iter()
        .map(|state| content(&mut Bench::new(Arc::new(recorder.view(&state)), 1, MAX_IO), 0, 512)[0])
        .collect();
    assert_eq!(found, [3, 2, 0, 1]);
    // Those of a turn during which the power fails, too.
    recorder.cut(Model::Prefix, 0).unwrap();
    recorder.restore().unwrap();
    begin(&mut bench, 0, 512, &[7; 512]);
    recorder.cut_at(Trigger::Flush(1));
    assert_eq!(bench.start(1, Descriptor::new(Op::Flush, 0, 0)), Some(Ok(0)));
    assert_eq!(bench.start(1, Descriptor::new(Op::Write, 0, 512)), Some(Err(libc::EIO)));
    assert_eq!(states(&recorder).len(), 1, "its data is not there yet");
    assert_eq!(turn(&mut bench), [Err(libc::EIO)]);
    assert_eq!(states(&recorder).len(), 2);
}

#[test]
fn a_write_from_before_a_cut_takes_none_with_it_that_was_started_after_the_disk_was_on_again() {
    for recorder in [in_memory(), recorder()] {
        let mut bench = Bench::new(recorder.clone(), 2, MAX_IO);
        begin(&mut bench, 0, 0, &[1; 512]);
        recorder.cut(Model::Prefix, 0).unwrap();
        recorder.restore().unwrap();
        begin(&mut bench, 1, 0, &[2; 512]);
        assert_eq!(turn(&mut bench), [Err(libc::EIO), Ok(512)]);
        assert_eq!(recorder.log().writes().len(), 1);
        begin(&mut bench, 1, 0, &[3; 512]);
        assert_eq!(turn(&mut bench), [Ok(512)]);
        flush(&mut bench);
        assert_eq!(states(&recorder).len(), 1, "no write is in flight any more");
        assert_eq!(content(&mut bench, 0, 512), [3; 512]);
    }
}

#[test]
fn a_write_in_shared_memory_is_recorded_as_it_was_when_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = in_memory();
    let mut bench = Bench::new(recorder, 2, MAX_IO);
    let memory = dir.path().join("memory");
    std::fs::write(&memory, [7; 1 << 16]).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&memory).unwrap();
    let shared = Some(ClientPlace { memory: bench.share(file), offset: 4096 });
    assert_eq!(bench.start(0, Descriptor { shared, ..Descriptor::new(Op::Write, 0, 2048) }), None);
    begin(&mut bench, 1, 2048, &[8; 512]);
    let client = std::fs::OpenOptions::new().write(true).open(&memory).unwrap();
    client.write_all_at(&[9; 8192], 0).unwrap();
    assert_eq!(turn(&mut bench), [Ok(2048), Ok(512)]);
    assert_eq!(content(&mut bench, 0, 3072), [vec![7; 2048], vec![8; 512], vec![0; 512]].concat());
}

#[test]
fn a_write_in_shared_memory_may_be_of_a_file_and_a_recorded_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = File::open_or_create(&dir.path().join("file"), SIZE, false).unwrap();
    file.begin().unwrap();
    let disk = Concat::new(vec![Arc::new(file), in_memory()]).unwrap();
    let mut bench = Bench::new(Arc::new(disk), 1, MAX_IO);
    let memory = dir.path().join("memory");
    std::fs::write(&memory, [[6; 4096], [7; 4096], [8; 4096]].concat()).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&memory).unwrap();
    let shared = Some(ClientPlace { memory: bench.share(file), offset: 4096 });
    // The ring has the file's part, where it lies, when the recorded disk is asked for the other one.
    let what = Descriptor { shared, ..Descriptor::new(Op::Write, SIZE - 4096, 8192) };
    assert_eq!(bench.start(0, what), None);
    assert_eq!(finish(&mut bench), Ok(8192));
    assert_eq!(content(&mut bench, SIZE - 4096, 12288), [[7; 4096], [8; 4096], [0; 4096]].concat());
}

/// A disk whose engine panics when it has passed a write of one sector down.
struct Panics(Arc<dyn Backend>);

impl Backend for Panics {
    fn properties(&self) -> Properties {
        self.0.properties()
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.0.copy_modes()
    }

    fn places(&self) -> Vec<claim::Place<'_>> {
        self.0.places()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(PanicsEngine(site.below(self.0.clone())?)))
    }
}

struct PanicsEngine(Below);

impl Engine for PanicsEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let step = self.0.start(io, 0, piece);
        assert!(piece.op != Op::Write || piece.length > SECTOR, "a sector is too little");
        step
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        self.0.resume(io, completion).unwrap().step
    }
}

#[test]
fn a_write_that_failed_in_a_layer_above_is_not_recorded_with_the_data_of_the_next_one() {
    let recorder = in_memory();
    let mut bench = Bench::new(Arc::new(Panics(recorder.clone())), 3, MAX_IO);
    begin(&mut bench, 1, 4096, &[1; 1024]);
    bench.buffer(0)[..512].fill(2);
    let failing = Descriptor::new(Op::Write, 0, 512);
    let panicked = catch_unwind(AssertUnwindSafe(|| bench.start(0, failing)));
    assert!(panicked.is_err());
    bench.fail(0);
    begin(&mut bench, 0, 8192, &[3; 1024]);
    assert_eq!(bench.start(2, Descriptor::new(Op::Discard, 8192, 512)), None);
    assert_eq!(turn(&mut bench), [Ok(1024), Ok(1024), Ok(512)]);
    let log = recorder.log();
    let sectors: Vec<_> = log.writes().iter().map(|write| write.sector).collect();
    assert_eq!(sectors, [8, 16, 16]);
    flush(&mut bench);
    assert_eq!(states(&recorder).len(), 1, "what failed is not in flight");
    let mut bench = Bench::new(recorder, 1, MAX_IO);
    assert_eq!(content(&mut bench, 0, 512), [0; 512]);
    assert_eq!(content(&mut bench, 4096, 1024), [1; 1024]);
    assert_eq!(content(&mut bench, 8192, 1024), [[0; 512], [3; 512]].concat());
}

#[test]
fn queues_record_at_the_same_time_and_each_finds_what_all_have_written() {
    const ROUNDS: u64 = 50;
    const DEPTH: u16 = 8;
    let recorder = in_memory();
    let byte = |queue: u64, round: u64, tag: u16| {
        (queue * 128 + (round * u64::from(DEPTH) + u64::from(tag)) % 127 + 1) as u8
    };
    std::thread::scope(|scope| {
        for queue in 0..2 {
            let recorder = recorder.clone();
            scope.spawn(move || {
                let mut bench = Bench::new(recorder, DEPTH, MAX_IO);
                for round in 0..ROUNDS {
                    for tag in 0..DEPTH {
                        // Sectors of both queues share blocks.
                        let sector = u64::from(tag) * 2 + queue;
                        begin(&mut bench, tag, sector * SECTOR, &[byte(queue, round, tag); 512]);
                    }
                    assert_eq!(turn(&mut bench), [Ok(512); DEPTH as usize]);
                    let own = content(&mut bench, queue * SECTOR, 512);
                    assert_eq!(own, [byte(queue, round, 0); 512]);
                }
            });
        }
    });
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    for (sector, found) in (0..).zip(content(&mut bench, 0, 16 * 512).chunks(512)) {
        assert_eq!(found, [byte(sector % 2, ROUNDS - 1, (sector / 2) as u16); 512], "sector {sector}");
    }
    // Each write has a place of its own, where its data is.
    let (log, mut seen) = (recorder.log(), HashMap::new());
    assert_eq!(log.writes().len() as u64, 2 * ROUNDS * u64::from(DEPTH));
    for write in log.writes() {
        let mut data = [0; 512];
        recorder.read(write.place.offset().unwrap(), &mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == data[0]) && u64::from(data[0] > 128) == write.sector % 2);
        assert_eq!(seen.insert(write.place, write.done), None);
    }
}
