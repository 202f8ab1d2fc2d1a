//! Diffs that fail, are cancelled, or end with their disk.

use super::*;

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
