//! Diffs of disks that are written meanwhile, against arrays.

use super::*;
use crate::backend::later::{Later, Waiting};
use crate::backend::{File as FileDisk, Overlay, Sink, Stripe};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Instant;

/// A copy of the disk as it was at the checkpoint, to which a diff is applied.
struct Copy {
    disk: Vec<u8>,
    parts: Vec<Range<u64>>,
    unit: u64,
    pause: Duration,
    begun: Arc<AtomicBool>,
}

impl Copy {
    fn of(disk: Vec<u8>) -> Self {
        Self { disk, parts: Vec::new(), unit: BLOCK, pause: Duration::ZERO, begun: Arc::default() }
    }
}

impl Sink for Copy {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        assert_eq!(size, self.disk.len() as u64);
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.unit
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = offset..offset + data.len() as u64;
        assert!(!self.parts.iter().any(|part| part.start < range.end && range.start < part.end), "twice");
        self.parts.push(range);
        self.disk[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        self.begun.store(true, SeqCst);
        thread::sleep(self.pause);
        Ok(())
    }

    fn aside(&self) -> io::Result<File> {
        tempfile::tempfile()
    }
}

const THREADS: u64 = 3;
/// Blocks that a thread writes to.
const REGION: u64 = 512;
const SIZE: u64 = THREADS * REGION * BLOCK;

/// A write by one of the threads, between two ticks of a clock. Each of its blocks has its value.
struct Write {
    blocks: Range<u64>,
    value: u64,
    began: u64,
    ended: u64,
}

/// A sequence that looks random.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Writes and zeroes blocks of its region until it is told to stop.
fn write_on(disk: Arc<Tracked>, region: u64, clock: &AtomicU64, stop: &AtomicBool) -> Vec<Write> {
    let mut bench = Bench::new(disk, 2, 1 << 16);
    let (mut writes, mut seed) = (Vec::new(), region + 1);
    while !stop.load(SeqCst) {
        let length = 1 + next(&mut seed) % 16;
        let start = region * REGION + next(&mut seed) % (REGION - length);
        let began = clock.fetch_add(1, SeqCst);
        let zeroes = next(&mut seed).is_multiple_of(8);
        let value = if zeroes { 0 } else { began };
        let op = if zeroes { Op::WriteZeroes } else { Op::Write };
        if !zeroes {
            for word in bench.buffer(0)[..(length * BLOCK) as usize].chunks_exact_mut(8) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        let mut outcome = bench.start(0, Descriptor::new(op, start * BLOCK, length * BLOCK));
        while outcome.is_none() {
            outcome = bench.turn().first().map(|(_, outcome)| *outcome);
            thread::yield_now();
        }
        assert!(outcome.is_some_and(|outcome| outcome.is_ok()));
        bench.turn(); // what other threads ask
        writes.push(Write { blocks: start..start + length, value, began, ended: clock.fetch_add(1, SeqCst) });
        thread::sleep(Duration::from_micros(next(&mut seed) % 50));
    }
    writes
}

/// The value of a block that is not torn.
fn value_of(disk: &[u8], block: u64) -> u64 {
    let block = &disk[(block * BLOCK) as usize..][..BLOCK as usize];
    let value = &block[..8];
    assert!(block.chunks_exact(8).all(|word| word == value), "a block is torn");
    u64::from_le_bytes(value.try_into().unwrap())
}

/// Checks that a disk is as it was at one instant: for each thread it has all of its writes up to one, and none of those
/// after it; and no write that it has began after one had ended that it lacks.
fn is_of_one_instant(disk: &[u8], base: &[u8], writes: &[Vec<Write>]) {
    let (mut last_in, mut first_out) = (0, u64::MAX);
    for (region, writes) in writes.iter().enumerate() {
        let first = region as u64 * REGION;
        let found: Vec<_> = (first..first + REGION).map(|block| value_of(disk, block)).collect();
        let mut state: Vec<_> = (first..first + REGION).map(|block| value_of(base, block)).collect();
        let mut counts = if state == found { vec![0] } else { vec![] };
        for (at, write) in writes.iter().enumerate() {
            state[(write.blocks.start - first) as usize..(write.blocks.end - first) as usize]
                .fill(write.value);
            if state == found {
                counts.push(at + 1);
            }
        }
        let (Some(least), Some(most)) = (counts.first(), counts.last()) else {
            panic!("thread {region} never had written that");
        };
        // Zeroes over zeroes change nothing: so there may be several counts.
        last_in = last_in.max(least.checked_sub(1).map_or(0, |at| writes[at].began));
        first_out = first_out.min(writes.get(*most).map_or(u64::MAX, |write| write.ended));
    }
    assert!(
        last_in < first_out,
        "a write that began at {last_in} is in, and one that ended at {first_out} is not"
    );
}

fn all_of(bench: &mut Bench) -> Vec<u8> {
    let mut content = Vec::new();
    while (content.len() as u64) < SIZE {
        let mut outcome = bench.start(0, Descriptor::new(Op::Read, content.len() as u64, 1 << 16));
        while outcome.is_none() {
            outcome = bench.turn().first().map(|(_, outcome)| *outcome);
        }
        assert_eq!(outcome, Some(Ok(1 << 16)));
        content.extend_from_slice(&bench.buffer(0)[..1 << 16]);
    }
    content
}

/// Every kind of disk that stores data natively.
fn kinds(dir: &Path) -> Vec<(&'static str, Arc<dyn Backend>)> {
    let file = |name: &str, size| {
        let path = dir.join(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    };
    let open = |path: &Path| Arc::new(FileDisk::open(path, false, false).unwrap());
    let base = || open(&file("base", SIZE));
    let upper = dir.join("upper");
    vec![
        ("memory", Arc::new(Memory::new(SIZE).unwrap())),
        ("file", open(&file("file", SIZE))),
        (
            "stripe",
            Arc::new(
                Stripe::new(vec![open(&file("a", SIZE / 2)), open(&file("b", SIZE / 2))], 65536).unwrap(),
            ),
        ),
        ("overlay in memory", Arc::new(Overlay::in_memory(base(), None).unwrap())),
        ("overlay in a file", Arc::new(Overlay::in_file(base(), &upper, None, false).unwrap())),
    ]
}

#[test]
fn a_diff_is_of_one_instant_for_all_queues_while_they_write() {
    let dir = tempfile::tempdir().unwrap();
    for (at, (kind, below)) in kinds(dir.path()).into_iter().enumerate() {
        let disk = Arc::new(Tracked::open(below, &dir.path().join(format!("map{at}")), false).unwrap());
        let (clock, stop) = (AtomicU64::new(1), AtomicBool::new(false));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|region| {
                    let (disk, clock, stop) = (disk.clone(), &clock, &stop);
                    scope.spawn(move || write_on(disk, region, clock, stop))
                })
                .collect();
            while clock.load(SeqCst) < 200 {
                thread::sleep(Duration::from_millis(1));
            }
            disk.checkpoint("a").unwrap();
            let mut copies = Vec::new();
            // One after the other: of everything, then of what changed; in blocks, in units, and with an output that is slow.
            let mut base = Copy::of(vec![0xff; SIZE as usize]);
            disk.diff(None, &mut base, &|| false).unwrap();
            let base = base.disk;
            for (unit, pause) in [(BLOCK, 0), (65536, 0), (BLOCK, 5)] {
                let now = clock.load(SeqCst);
                while clock.load(SeqCst) < now + 100 {
                    thread::sleep(Duration::from_millis(1));
                }
                let mut copy = Copy::of(base.clone());
                (copy.unit, copy.pause) = (unit, Duration::from_millis(pause));
                disk.diff(Some("a"), &mut copy, &|| false).unwrap();
                assert!(copy.parts.iter().all(|part| (part.end - part.start).is_multiple_of(unit)));
                copies.push(copy.disk);
            }
            stop.store(true, SeqCst);
            let writes: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            println!("{kind}: {} writes", writes.iter().map(Vec::len).sum::<usize>());
            let empty = vec![0; SIZE as usize];
            is_of_one_instant(&base, &empty, &writes);
            copies.iter().for_each(|copy| is_of_one_instant(copy, &empty, &writes));
            is_what_the_disk_has(&disk, base);
        });
    }
}

/// A diff of a disk that nobody writes to.
fn is_what_the_disk_has(disk: &Arc<Tracked>, base: Vec<u8>) {
    let mut bench = Bench::new(disk.clone(), 1, 1 << 16); // the disk is served
    let mut last = Copy::of(base);
    thread::scope(|scope| {
        let diff = scope.spawn(|| disk.diff(Some("a"), &mut last, &|| false));
        while !diff.is_finished() {
            bench.turn();
            thread::yield_now();
        }
        diff.join().unwrap().unwrap();
    });
    assert!(last.disk == all_of(&mut bench));
}

fn served<T>(disk: &Arc<Tracked>, ask: impl FnOnce() -> T + Send) -> T
where
    T: Send,
{
    let mut bench = Bench::new(disk.clone(), 1, 4096);
    thread::scope(|scope| {
        let asked = scope.spawn(ask);
        while !asked.is_finished() {
            bench.turn();
            thread::yield_now();
        }
        asked.join().unwrap()
    })
}

/// An output that is full.
struct Full;

impl Sink for Full {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn put(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    fn aside(&self) -> io::Result<File> {
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }
}

#[test]
fn a_diff_that_fails_or_is_cancelled_lets_all_requests_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir.path().join("map"), 4 * MIB);
    served(&disk, || {
        disk.checkpoint("start").unwrap();
        assert_eq!(disk.diff(None, &mut Full, &|| false).unwrap_err().errno, Some(libc::ENOSPC));
        assert_eq!(disk.diff(None, &mut Full, &|| true).unwrap_err().kind, ErrorKind::Cancelled);
        assert_eq!(disk.diff(Some("end"), &mut Full, &|| false).unwrap_err().kind, ErrorKind::NotFound);
        disk.diff(Some("start"), &mut Full, &|| false).unwrap(); // nothing has changed
    });
    let mut bench = Bench::new(disk.clone(), 4, 1 << 16);
    assert!(bench.start(0, Descriptor::new(Op::Write, MIB, 4096)).is_some());
    disk.resize(4 * MIB, 5 * MIB).unwrap();
}

#[test]
fn a_disk_has_one_diff_at_a_time_and_is_not_resized_meanwhile_and_its_end_ends_the_diff() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir.path().join("map"), 4 * MIB);
    let mut bench = Bench::new(disk.clone(), 4, 1 << 16);
    let mut copy = Copy::of(vec![0; 4 << 20]);
    copy.pause = Duration::from_millis(5);
    let begun = copy.begun.clone();
    thread::scope(|scope| {
        let diff = scope.spawn(|| disk.diff(None, &mut copy, &|| false));
        while !begun.load(SeqCst) {
            bench.turn();
            thread::yield_now();
        }
        assert_eq!(disk.diff(None, &mut Full, &|| false).unwrap_err().kind, ErrorKind::Busy);
        assert_eq!(disk.resize(4 * MIB, 5 * MIB).unwrap_err().kind, ErrorKind::Busy);
        drop(bench);
        assert_eq!(diff.join().unwrap().unwrap_err().kind, ErrorKind::Closed);
    });
}

/// A place at which an output panics.
#[derive(Clone, Copy, PartialEq)]
enum Panics {
    Begin,
    Unit,
    Aside,
    Put,
}

struct Panicking(Panics);

impl Panicking {
    fn at(&self, place: Panics) {
        assert!(self.0 != place, "on purpose");
    }
}

impl Sink for Panicking {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        self.at(Panics::Begin);
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.at(Panics::Unit);
        BLOCK
    }

    fn put(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        thread::sleep(Duration::from_millis(50)); // writes wait meanwhile
        self.at(Panics::Put);
        Ok(())
    }

    fn aside(&self) -> io::Result<File> {
        self.at(Panics::Aside);
        tempfile::tempfile()
    }
}

#[test]
fn a_diff_whose_output_panics_fails_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir.path().join("map"), 4 * MIB);
    for panics in [Panics::Begin, Panics::Unit, Panics::Aside, Panics::Put] {
        let mut bench = Bench::new(disk.clone(), 1, 1 << 16);
        thread::scope(|scope| {
            let diff = scope.spawn(|| disk.diff(None, &mut Panicking(panics), &|| false));
            let (mut block, mut free) = (0, true);
            while !diff.is_finished() {
                if free {
                    block = (block + 37) % 1024;
                    free = bench.start(0, Descriptor::new(Op::Write, block * BLOCK, BLOCK)).is_some();
                }
                free |= !bench.turn().is_empty();
                thread::yield_now();
            }
            let failed = diff.join().expect("the panic is an error").unwrap_err();
            assert_eq!(
                (failed.kind, &*failed.message),
                (ErrorKind::System, "the diff panicked: this is a bug")
            );
            while !free {
                free = !bench.turn().is_empty();
            }
        });
        drop(bench);
        disk.resize(4 * MIB, 4 * MIB).unwrap();
        let mut copy = Copy::of(vec![1; 4 << 20]);
        served(&disk, || disk.diff(None, &mut copy, &|| false).unwrap());
        assert!(copy.disk.iter().all(|byte| *byte == 0));
    }
}

/// Lets all requests of a disk go on.
fn let_all_go(waiting: &Waiting) {
    for (completer, token, _) in waiting.lock().unwrap().drain(..) {
        completer.complete(token, 0);
    }
}

/// A disk whose requests wait until they are let go.
fn waiting_disk(below: Arc<dyn Backend>, dir: &Path) -> (Arc<Tracked>, Waiting) {
    let waiting = Waiting::default();
    let later = Arc::new(Later { disk: below, waiting: waiting.clone() });
    (Arc::new(Tracked::open(later, &dir.join("map"), false).unwrap()), waiting)
}

fn turn_for(bench: &mut Bench, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        bench.turn();
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_write_in_flight_at_the_checkpoint_and_at_the_instant_is_in_the_diff() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, waiting) = waiting_disk(Arc::new(Memory::new(4 * MIB).unwrap()), dir.path());
    let mut bench = Bench::new(disk.clone(), 2, 1 << 16);
    bench.buffer(0)[..8192].fill(7);
    assert!(bench.start(0, Descriptor::new(Op::Write, MIB, 8192)).is_none());
    disk.checkpoint("a").unwrap();
    let mut copy = Copy::of(vec![0; 4 << 20]);
    thread::scope(|scope| {
        let diff = scope.spawn(|| disk.diff(Some("a"), &mut copy, &|| false));
        turn_for(&mut bench, Duration::from_millis(200));
        while !diff.is_finished() {
            let_all_go(&waiting);
            bench.turn();
        }
        diff.join().unwrap().unwrap();
    });
    assert_eq!(copy.parts, [MIB..MIB + 8192]);
    assert!(copy.disk[1 << 20..][..8192].iter().all(|byte| *byte == 7));
}

#[test]
fn a_diff_is_cancelled_and_a_disk_ends_while_its_storage_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    for cancels in [true, false] {
        let (disk, waiting) = waiting_disk(Arc::new(Memory::new(4 * MIB).unwrap()), dir.path());
        let mut bench = Bench::new(disk.clone(), 2, 1 << 16);
        let cancelled = AtomicBool::new(false);
        let mut copy = Copy::of(vec![0; 4 << 20]);
        thread::scope(|scope| {
            let diff = scope.spawn(|| disk.diff(None, &mut copy, &|| cancelled.load(SeqCst)));
            while waiting.lock().unwrap().is_empty() {
                bench.turn(); // until it reads
            }
            let write = bench.start(0, Descriptor::new(Op::Write, 0, 4096));
            assert!(write.is_none(), "it waits for the diff");
            let began = Instant::now();
            let expected = if cancels {
                cancelled.store(true, SeqCst);
                ErrorKind::Cancelled
            } else {
                let watch = scope.spawn(|| {
                    thread::sleep(Duration::from_secs(5));
                    let_all_go(&waiting); // so that the test ends
                });
                drop(bench);
                assert!(!watch.is_finished(), "the queue waited for the storage");
                ErrorKind::Closed
            };
            while !diff.is_finished() && began.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(1));
            }
            let in_time = diff.is_finished();
            while !diff.is_finished() {
                let_all_go(&waiting);
            }
            assert!(in_time, "it waits for the storage");
            assert_eq!(diff.join().unwrap().unwrap_err().kind, expected);
        });
        std::fs::remove_file(dir.path().join("map")).unwrap();
    }
}

#[test]
fn an_overlay_is_flattened_while_a_diff_waits() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    std::fs::write(&base, vec![5; 4 << 20]).unwrap();
    let base = Arc::new(FileDisk::open(&base, true, false).unwrap());
    let overlay = Arc::new(Overlay::in_file(base, &dir.path().join("upper"), None, false).unwrap());
    let (disk, waiting) = waiting_disk(overlay.clone(), dir.path());
    let mut bench = Bench::new(disk.clone(), 2, 1 << 17);
    assert_eq!(overlay.max_io(), 1 << 17);
    assert!(bench.start(0, Descriptor::new(Op::Write, MIB, 8192)).is_none());
    let mut copy = Copy::of(vec![0; 4 << 20]);
    thread::scope(|scope| {
        let diff = scope.spawn(|| disk.diff(None, &mut copy, &|| false));
        turn_for(&mut bench, Duration::from_millis(200));
        assert_eq!(overlay.max_io(), 1 << 17, "the diff's reader is no queue of the disk");
        let flatten = scope.spawn(|| overlay.clone().flatten(None, &|| false));
        while !flatten.is_finished() {
            bench.turn();
        }
        while !diff.is_finished() {
            let_all_go(&waiting);
            bench.turn();
        }
        flatten.join().unwrap().unwrap();
        diff.join().unwrap().unwrap();
    });
    assert!(copy.disk[..1 << 20].iter().all(|byte| *byte == 5));
}

/// An output that is stuck until it is interrupted.
#[derive(Default)]
struct Stuck {
    begun: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
}

impl Sink for Stuck {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn put(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        self.begun.store(true, SeqCst);
        while !self.interrupted.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Err(io::Error::from_raw_os_error(libc::EPIPE))
    }

    fn aside(&self) -> io::Result<File> {
        tempfile::tempfile()
    }

    fn interrupter(&self) -> Box<dyn Fn() + Send + Sync> {
        let interrupted = self.interrupted.clone();
        Box::new(move || interrupted.store(true, SeqCst))
    }
}

#[test]
fn a_diff_whose_output_is_stuck_lets_writes_go_on_and_ends_with_its_disk_or_when_it_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    for (cancels, kind) in [(true, ErrorKind::Cancelled), (false, ErrorKind::Closed)] {
        let disk = disk(&dir.path().join("map"), 4 * MIB);
        let mut bench = Bench::new(disk.clone(), 1, 1 << 16);
        let (mut stuck, cancelled) = (Stuck::default(), AtomicBool::new(false));
        let (begun, interrupted) = (stuck.begun.clone(), stuck.interrupted.clone());
        thread::scope(|scope| {
            let diff = scope.spawn(|| disk.diff(None, &mut stuck, &|| cancelled.load(SeqCst)));
            while !begun.load(SeqCst) {
                bench.turn();
            }
            // All of the disk, which is far more than there is memory for.
            for block in 0..1024 {
                let mut done = bench.start(0, Descriptor::new(Op::Write, block * BLOCK, BLOCK)).is_some();
                while !done {
                    done = !bench.turn().is_empty();
                }
            }
            if cancels {
                cancelled.store(true, SeqCst);
            } else {
                drop(bench);
            }
            let began = Instant::now();
            while !diff.is_finished() && began.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(1));
            }
            let in_time = diff.is_finished();
            interrupted.store(true, SeqCst); // so that the test ends
            assert!(in_time, "it waits for its output");
            assert_eq!(diff.join().unwrap().unwrap_err().kind, kind);
        });
    }
}

/// What happens while a disk is resized.
type Meanwhile = Box<dyn Fn() + Send + Sync>;

/// A disk that cannot be resized.
struct Rigid {
    disk: Memory,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl Backend for Rigid {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        Arc::new(Memory::new(4 * MIB)?).engine(site)
    }

    fn resize(&self, _: u64, _: u64) -> Result<()> {
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
        Err(Error::new(ErrorKind::Unsupported, "it is rigid"))
    }
}

#[test]
fn no_diff_begins_while_a_disk_is_resized_and_a_failure_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let rigid = Arc::new(Rigid { disk: Memory::new(4 * MIB).unwrap(), meanwhile: Mutex::default() });
    let disk = Arc::new(Tracked::open(rigid.clone(), &dir.path().join("map"), false).unwrap());
    let bench = Bench::new(disk.clone(), 1, 4096);
    disk.checkpoint("a").unwrap();
    let (stuck, other) = (Stuck::default(), disk.clone());
    let end = stuck.interrupted.clone();
    *rigid.meanwhile.lock().unwrap() = Some(Box::new(move || {
        let (other, mut stuck) = (other.clone(), Stuck { interrupted: end.clone(), ..Stuck::default() });
        let diff = thread::spawn(move || other.diff(None, &mut stuck, &|| false));
        thread::sleep(Duration::from_millis(100)); // it has begun, if it could
        end.store(true, SeqCst);
        assert!(diff.is_finished(), "a diff has begun");
        let failed = diff.join().unwrap().unwrap_err();
        assert_eq!((failed.kind, &*failed.message), (ErrorKind::Busy, "the disk is being resized"));
    }));
    for to in [5 * MIB, 3 * MIB] {
        assert_eq!(disk.resize(4 * MIB, to).unwrap_err().message, "it is rigid");
        assert_eq!(disk.changed("a", 0, 10).unwrap().size, 4 * MIB);
    }
    drop(bench);
}
