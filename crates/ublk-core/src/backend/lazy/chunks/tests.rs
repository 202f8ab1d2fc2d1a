use super::super::map::{Found, Identity};
use super::*;
use crate::backend::{Backend, Engine, Properties, Site};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::{Outside, Ticket, Waker};

const CHUNK: u64 = 4096;

fn chunks() -> Arc<Chunks> {
    Arc::new(Chunks::new(Map::volatile(10 * CHUNK - 512, CHUNK).unwrap(), None))
}

fn waiter(tag: u16) -> Waiter {
    let ticket = Ticket { tag, generation: 0, queue: 0 };
    Waiter::Request { completer: Completer::new(Waker::new().unwrap()), token: Token::of(ticket) }
}

fn heard(waiter: &Waiter) -> Vec<(Token, i32)> {
    let (mut happened, Waiter::Request { completer, .. }) = (Vec::new(), waiter) else {
        panic!("no request")
    };
    completer.take(&mut happened);
    let done = |what| match what {
        Outside::Done(token, result) => (token, result),
        Outside::Told(..) | Outside::Returned { .. } | Outside::Task(_) => {
            panic!("nothing was lent or asked for")
        }
    };
    happened.into_iter().map(done).collect()
}

fn token(tag: u16) -> Token {
    Token::of(Ticket { tag, generation: 0, queue: 0 })
}

fn waits(plan: &Plan) -> (u32, Vec<(u64, u64)>) {
    match plan {
        Plan::Go(claim) => panic!("goes with {:?}", claim.held),
        Plan::Wait { times, fetch } => (*times, fetch.iter().map(|run| (run.start, run.end)).collect()),
        _ => panic!("fails"),
    }
}

fn goes(plan: Plan) -> Claim {
    match plan {
        Plan::Go(claim) => claim,
        Plan::Wait { times, fetch } => panic!("waits {times} times and fetches {fetch:?}"),
        _ => panic!("fails"),
    }
}

#[test]
fn a_read_fetches_each_missing_run_once_and_others_wait() {
    let (chunks, first, second) = (chunks(), waiter(1), waiter(2));
    chunks.map.set(&[2], false);
    let plan = chunks.plan(CHUNK / 2, 4 * CHUNK, Use::Read, &first);
    assert_eq!(waits(&plan), (4, vec![(0, 2), (3, 5)]));
    let plan = chunks.plan(0, 6 * CHUNK, Use::Read, &second);
    assert_eq!(waits(&plan), (5, vec![(5, 6)]));
    chunks.complete(&[0, 1], false, 0).unwrap();
    assert_eq!(heard(&first), vec![(token(1), 0); 2]);
    chunks.give_up(3..5, -5);
    assert_eq!(heard(&first), vec![(token(1), -5); 2]);
    assert_eq!(heard(&second).len(), 4);
    // What failed is fetched again, what is there is not.
    assert_eq!(waits(&chunks.plan(0, 5 * CHUNK, Use::Read, &first)), (2, vec![(3, 5)]));
    goes(chunks.plan(0, 3 * CHUNK, Use::Read, &first));
}

#[test]
fn whole_chunks_are_overwritten_without_a_fetch_and_parts_are_not() {
    let (chunks, waiter) = (chunks(), waiter(0));
    let plan = chunks.plan(512, 2 * CHUNK, Use::Overwrite, &waiter);
    assert_eq!(waits(&plan), (2, vec![(0, 1), (2, 3)]));
    chunks.complete(&[0], false, 0).unwrap();
    chunks.complete(&[2], false, 0).unwrap();
    let claim = goes(chunks.plan(512, 2 * CHUNK, Use::Overwrite, &waiter));
    assert_eq!(claim.held, [1]);
    assert_eq!(waits(&chunks.plan(CHUNK, 512, Use::Read, &waiter)), (1, vec![]));
    claim.fulfil().unwrap();
    assert!(chunks.map.has(1));
    // The last chunk is shorter.
    assert_eq!(goes(chunks.plan(9 * CHUNK, CHUNK - 512, Use::Overwrite, &waiter)).held, [9]);
    assert!(!chunks.map.has(9), "a claim that is dropped leaves it missing");
}

#[test]
fn a_discard_waits_for_nothing() {
    let (chunks, waiter) = (chunks(), waiter(0));
    assert_eq!(waits(&chunks.plan(2 * CHUNK, CHUNK, Use::Read, &waiter)), (1, vec![(2, 3)]));
    assert_eq!(goes(chunks.plan(512, 3 * CHUNK, Use::Discard, &waiter)).held, [1]);
}

/// A storage whose state a test sets.
#[derive(Default)]
struct Medium {
    loses: AtomicBool,
    cannot_sync: AtomicBool,
}

impl Backend for Medium {
    fn properties(&self) -> Properties {
        unreachable!("these tests make no engine")
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
        unreachable!("these tests make no engine")
    }
}

impl Storage for Medium {
    fn store(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        told(&self.cannot_sync)
    }

    fn intact(&self) -> io::Result<()> {
        told(&self.loses)
    }
}

fn told(failure: &AtomicBool) -> io::Result<()> {
    if failure.swap(false, SeqCst) { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
}

/// Chunk 0 is saved; 1 was fetched, 2 written whole, 3 fetched and then written in part.
fn kept() -> (Arc<Chunks>, Medium, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { size: 10 * CHUNK, chunk: CHUNK, name: String::new() };
    let map = Map::open(&dir.path().join("map"), &identity, Found::New).unwrap();
    map.begin();
    let (chunks, medium) = (Arc::new(Chunks::new(map, None)), Medium::default());
    chunks.complete(&[0], false, 0).unwrap();
    chunks.save(&medium).unwrap();
    chunks.complete(&[1, 3], false, 0).unwrap();
    goes(chunks.plan(2 * CHUNK, CHUNK, Use::Overwrite, &waiter(0))).fulfil().unwrap();
    goes(chunks.plan(3 * CHUNK, 512, Use::Overwrite, &waiter(0))).fulfil().unwrap();
    (chunks, medium, dir)
}

#[test]
fn what_a_failed_sync_may_have_lost_is_fetched_again_or_fails_and_nothing_is_saved_any_more() {
    for sync in [true, false] {
        let (chunks, medium, dir) = kept();
        if sync {
            medium.cannot_sync.store(true, SeqCst);
            assert!(chunks.save(&medium).is_err());
        } else {
            medium.loses.store(true, SeqCst);
            assert!(!chunks.intact(&medium, 0));
        }
        let waiter = waiter(0);
        let plan = |chunk: u64, length, what| chunks.plan(chunk * CHUNK, length, what, &waiter);
        assert!(chunks.map.settled_all(0..1));
        goes(plan(0, CHUNK, Use::Read));
        assert_eq!(waits(&plan(1, CHUNK, Use::Read)), (1, vec![(1, 2)]));
        for chunk in [2, 3] {
            assert!(matches!(plan(chunk, CHUNK, Use::Read), Plan::Lost));
            assert!(matches!(plan(chunk, 512, Use::Overwrite), Plan::Lost));
        }
        assert!(matches!(plan(0, 4 * CHUNK, Use::Read), Plan::Lost));
        // A write of the whole chunk needs none of the lost data.
        goes(plan(2, CHUNK, Use::Overwrite)).fulfil().unwrap();
        goes(plan(2, CHUNK, Use::Read));
        assert!(chunks.save(&medium).is_err(), "a sync would succeed now, but earlier data is unknown");
        drop(chunks);
        let identity = Identity { size: 10 * CHUNK, chunk: CHUNK, name: String::new() };
        let map = Map::open(&dir.path().join("map"), &identity, Found::Used).unwrap();
        assert_eq!((0..10).filter(|chunk| map.has(*chunk)).collect::<Vec<_>>(), [0]);
    }
}

#[test]
fn a_save_finds_out_that_another_sync_took_the_report_of_a_loss() {
    let (chunks, medium, _dir) = kept();
    medium.loses.store(true, SeqCst); // its sync succeeds
    assert!(chunks.save(&medium).is_err());
    assert!(chunks.map.failed() && !chunks.map.has(1) && !chunks.map.settled_all(2..3));
}

#[test]
fn what_was_under_way_when_something_was_lost_does_not_count() {
    let (chunks, medium, _dir) = kept();
    let claim = goes(chunks.plan(5 * CHUNK, CHUNK, Use::Overwrite, &waiter(0)));
    let fetched = chunks.epoch();
    medium.loses.store(true, SeqCst);
    assert!(!chunks.intact(&medium, fetched));
    assert!(claim.fulfil().is_err(), "its write fails");
    assert!(chunks.complete(&[6], false, fetched).is_err());
    assert!(!chunks.map.has(5) && !chunks.map.has(6));
    assert!(chunks.intact(&medium, chunks.epoch()), "each failure is reported once");
}
