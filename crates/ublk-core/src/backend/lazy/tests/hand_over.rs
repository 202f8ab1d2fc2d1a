//! A lazy disk with a cache that is left to another process, and taken back from it. The other process is another `Lazy`
//! here: locks belong to open files.

use super::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// In the order of the queue.
fn ask(lazy: &Arc<Lazy>, what: Descriptor) -> crate::queue::Outcome {
    let mut bench = Bench::new(lazy.clone(), 1, 4096);
    let mut outcome = bench.start(0, what);
    while outcome.is_none() {
        outcome = bench.turn().pop().map(|(_, outcome)| outcome);
    }
    outcome.unwrap()
}

fn open(dir: &Path, max: Option<u64>, source: Arc<dyn Source>) -> Result<Arc<Lazy>> {
    let (storage, found) = Stored::open_or_create(&dir.join("cache"), SIZE, false)?;
    let identity = Identity { size: SIZE, chunk: CHUNK, name: "image".into() };
    let (storage, map) = (Arc::new(storage), dir.join("map"));
    Ok(Arc::new(match max {
        Some(max) => Lazy::bounded(storage, Map::open_bounded(&map, &identity, found)?, source, max)?,
        None => Lazy::new(storage, Map::open(&map, &identity, found)?, source)?,
    }))
}

const BOUNDS: [Option<u64>; 2] = [None, Some(84_000)];

#[test]
fn each_process_finds_what_the_other_has_fetched_and_written() {
    for max in BOUNDS {
        let dir = tempfile::tempdir().unwrap();
        let (source, other_source) = (Arc::new(At::default()), Arc::new(At::default()));
        let write = |chunk: u64| Descriptor::new(Op::Write, chunk * CHUNK, CHUNK);
        let read = |chunk: u64| Descriptor::new(Op::Read, chunk * CHUNK, CHUNK);
        let one = open(dir.path(), max, source.clone()).unwrap();
        let handle = one.handle();
        ask(&one, read(0)).unwrap();
        ask(&one, write(1)).unwrap();
        assert_eq!(open(dir.path(), max, source.clone()).err().unwrap().kind, ErrorKind::Busy);
        one.let_go();

        let other = open(dir.path(), max, other_source.clone()).unwrap();
        assert_eq!(one.take_back(one.properties().size).unwrap_err().kind, ErrorKind::Busy);
        ask(&other, read(0)).unwrap();
        ask(&other, read(1)).unwrap();
        assert_eq!(other_source.asked.load(SeqCst), 0, "both are there");
        ask(&other, read(2)).unwrap();
        ask(&other, write(3)).unwrap();
        ask(&other, write(0)).unwrap();
        other.let_go();

        one.take_back(one.properties().size).unwrap();
        let asked = source.asked.load(SeqCst);
        for chunk in 0..4 {
            ask(&one, read(chunk)).unwrap();
        }
        assert_eq!(source.asked.load(SeqCst), asked, "all are there");
        assert_eq!(handle.progress().unwrap().present, 4 * CHUNK, "its handle shows the new state");
        let file = File::open(dir.path().join("cache")).unwrap();
        let bytes = [0, 1, 2, 3].map(|chunk: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, chunk * CHUNK).unwrap();
            byte[0]
        });
        assert_eq!(bytes, [0, 0, 3, 0], "written, written, fetched, written");
        if max.is_some() {
            assert_eq!(one.handle().progress().unwrap().dirty, Some(3 * CHUNK));
        }
        ask(&one, Descriptor::new(Op::Flush, 0, 0)).unwrap();
        one.close().unwrap();
        drop(open(dir.path(), max, source).unwrap());
    }
}

/// Keeps what it is asked for.
#[derive(Default)]
struct Late(Mutex<Vec<Fill>>);

impl Source for Late {
    fn fetch(&self, fill: Fill) {
        self.0.lock().unwrap().push(fill);
    }
}

#[test]
fn an_answer_of_the_source_that_comes_after_the_disk_was_left_changes_nothing() {
    for max in BOUNDS {
        let dir = tempfile::tempdir().unwrap();
        let source = Arc::new(Late::default());
        let one = open(dir.path(), max, source.clone()).unwrap();
        one.begin(&one.inner()).unwrap();
        let handle = one.handle();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| handle.prefetch(0, CHUNK, &|| false));
            let until = Instant::now() + Duration::from_secs(20);
            while source.0.lock().unwrap().is_empty() {
                assert!(Instant::now() < until);
                std::thread::yield_now();
            }
            one.let_go();
            assert!(waits.join().unwrap().is_err(), "it does not wait for another process");
        });
        for fill in source.0.lock().unwrap().drain(..) {
            let data = vec![7; fill.length() as usize];
            let _ = fill.supply(data); // too late, or the caller's answer to an error is to drop it
        }
        let other = open(dir.path(), max, Arc::new(At::default())).unwrap();
        assert_eq!(other.handle().progress().unwrap().present, 0);
        assert_eq!(fs::read(dir.path().join("cache")).unwrap(), vec![0; SIZE as usize]);
    }
}

/// The file does not say which data is lost, so no other process could refuse to read it.
#[test]
fn a_disk_that_has_lost_data_is_not_left_to_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let one = open(dir.path(), None, Arc::new(At::default())).unwrap();
    ask(&one, Descriptor::new(Op::Write, 0, CHUNK)).unwrap();
    one.inner().chunks.failed(&io::Error::from_raw_os_error(libc::EIO));
    one.let_go();
    assert_eq!(open(dir.path(), None, Arc::new(At::default())).err().unwrap().kind, ErrorKind::Busy);
    one.take_back(one.properties().size).unwrap();
    assert_eq!(ask(&one, Descriptor::new(Op::Flush, 0, 0)), Err(libc::EIO));
    assert!(one.close().is_err());
    drop(open(dir.path(), None, Arc::new(At::default())).unwrap());
}
