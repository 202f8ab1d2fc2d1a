//! Misses that wait for space in a bounded cache.

use super::*;

/// A queue that was given up, with a request that never ends, keeps its chunks pinned.
#[test]
fn a_disk_can_be_closed_while_all_that_could_be_evicted_is_pinned() {
    let (lazy, ..) = disk(Some(41_000));
    let lazy = served(lazy);
    lazy.handle().prefetch(0, 8 * CHUNK, &|| false).unwrap();
    let inner = lazy.inner();
    let room = inner.chunks.room.as_ref().unwrap();
    room.pins.pin(0..SIZE / CHUNK);
    let (sender, told) = std::sync::mpsc::channel();
    lazy.inner().filler.jobs().send(Job::Evict(room.most, chunks::Waiter::Thread(sender))).unwrap();
    let (lazy, (done, closed)) = (Arc::new(lazy), std::sync::mpsc::channel());
    let own = lazy.clone();
    std::thread::spawn(move || done.send(own.close().is_ok()).unwrap());
    assert!(closed.recv_timeout(Duration::from_secs(5)).expect("it ends"));
    assert_eq!(told.recv().unwrap(), -libc::EIO);
}

/// Keeps what it is asked for, until the test answers.
#[derive(Default)]
struct Slow(Mutex<Vec<Fill>>);

impl Source for Slow {
    fn fetch(&self, fill: Fill) {
        self.0.lock().unwrap().push(fill);
    }
}

impl Slow {
    fn take(&self) -> Vec<Fill> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn supply(fill: Fill) {
        let data = vec![1; fill.length() as usize];
        fill.supply(data).unwrap();
    }
}

/// A cache of 9 chunks with 6 written ones, 10 to 15. The chunks 0, 3 and 6 take up the other space, since writes to them
/// failed, and are missing.
fn crowded() -> (Lazy, Arc<Slow>) {
    use crate::backend::lazy::chunks::{Plan, Use, Waiter};
    let (storage, source) = (Arc::new(Memory::new(SIZE).unwrap()), Arc::new(Slow::default()));
    let map = Map::volatile_bounded(SIZE, CHUNK).unwrap();
    let lazy = served(Lazy::bounded(storage, map, source.clone(), 41_000).unwrap());
    let (sender, _) = std::sync::mpsc::channel();
    let overwrite = |chunk: u64| match lazy.inner().chunks.plan(
        chunk * CHUNK,
        CHUNK,
        Use::Overwrite,
        &Waiter::Thread(sender.clone()),
    ) {
        Plan::Go(claim) => claim,
        _ => panic!("it fits in"),
    };
    [0, 3, 6].into_iter().for_each(|chunk| drop(overwrite(chunk)));
    (10..16).for_each(|chunk| overwrite(chunk).fulfil().unwrap());
    (lazy, source)
}

/// Reads chunks that are missing; the result of each comes later.
fn ask(lazy: &Lazy, range: std::ops::Range<u64>) -> std::sync::mpsc::Receiver<i32> {
    use crate::backend::lazy::chunks::{Plan, Use, Waiter};
    let (sender, told) = std::sync::mpsc::channel();
    let (offset, length) = lazy.inner().chunks.bytes(&range);
    let plan = lazy.inner().chunks.plan(offset, length, Use::Read, &Waiter::Thread(sender));
    let Plan::Wait { fetch, .. } = plan else { panic!("it is missing") };
    assert_eq!(fetch, [range]);
    fetch.into_iter().for_each(|range| lazy.inner().fetch(range, true));
    told
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_miss_waits_for_space_that_is_being_fetched_into() {
    for fails in [false, true] {
        let (lazy, source) = crowded();
        let first = [0, 3, 6].map(|chunk| ask(&lazy, chunk..chunk + 1));
        let fills = source.take();
        let second = ask(&lazy, 8..9);
        source.take().into_iter().for_each(Slow::supply);
        assert!(second.recv_timeout(Duration::from_millis(50)).is_err(), "there is no room yet");
        for fill in fills {
            if fails { fill.fail(libc::ENODATA) } else { Slow::supply(fill) }
        }
        let result = if fails { -libc::ENODATA } else { 0 };
        assert_eq!(first.map(|told| told.recv_timeout(SOON).unwrap()), [result; 3]);
        assert_eq!(second.recv_timeout(SOON), Ok(0));
        lazy.close().unwrap();
    }
}

#[test]
fn misses_do_not_wait_for_each_other() {
    let (lazy, source) = crowded();
    // Each needs room for one more chunk than it takes up already.
    let told = [0, 3, 6].map(|chunk| ask(&lazy, chunk..chunk + 2));
    source.take().into_iter().for_each(Slow::supply);
    let results = told.map(|told| told.recv_timeout(SOON).unwrap());
    assert_eq!(results, [0, 0, -libc::ENOSPC], "the last one makes room for the others");
    lazy.close().unwrap();
}

#[test]
fn a_miss_that_waits_for_space_does_not_keep_its_disk_from_closing() {
    let (lazy, source) = crowded();
    let first = [0, 3, 6].map(|chunk| ask(&lazy, chunk..chunk + 1));
    let fills = source.take();
    let second = ask(&lazy, 8..9);
    source.take().into_iter().for_each(Slow::supply);
    lazy.close().unwrap();
    assert_eq!(second.recv_timeout(SOON), Ok(-libc::EIO));
    drop(fills);
    assert_eq!(first.map(|told| told.recv_timeout(SOON).unwrap()), [-libc::EIO; 3]);
}
