//! Which chunks are there, which are coming, and who waits for them.

use super::map::Map;
use crate::queue::{Ticket, Waker};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a queue's waiting requests are told that they can go on.
pub struct Inbox {
    waker: Waker,
    ready: Mutex<Vec<(Ticket, i32)>>,
}

impl Inbox {
    pub fn new(waker: Waker) -> Self {
        Self { waker, ready: Mutex::default() }
    }

    /// Takes all that came.
    pub fn take(&self) -> Vec<(Ticket, i32)> {
        std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request that waits for something: 0 or a negative error number.
#[derive(Clone)]
pub struct Waiter {
    pub inbox: Arc<Inbox>,
    pub ticket: Ticket,
}

impl Waiter {
    pub fn tell(&self, result: i32) {
        self.inbox.ready.lock().unwrap_or_else(PoisonError::into_inner).push((self.ticket, result));
        self.inbox.waker.wake();
    }
}

/// What a request has to do before it can go to the storage.
pub enum Plan {
    /// Nothing: it holds these chunks, which it overwrites.
    Go(Claim),
    /// To wait to be told so often, after having these ranges of chunks fetched.
    Wait { times: u32, fetch: Vec<Range<u64>> },
}

/// What a request does to the chunks it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It needs what is there.
    Read,
    /// It needs what is there in those that it covers in part.
    Overwrite,
    /// It needs nothing, and leaves nothing that matters in those that it covers wholly.
    Discard,
}

/// The chunks of a disk. A chunk is missing; or busy, while somebody fetches or overwrites it; or present.
pub struct Chunks {
    pub map: Map,
    busy: Mutex<HashMap<u64, Vec<Waiter>>>,
}

impl Chunks {
    pub fn new(map: Map) -> Self {
        Self { map, busy: Mutex::default() }
    }

    /// The chunks that a range of bytes touches.
    pub fn touched(&self, offset: u64, length: u64) -> Range<u64> {
        let chunk = self.map.chunk();
        offset / chunk..(offset + length).div_ceil(chunk)
    }

    /// The bytes of a range of chunks: offset and length. The last chunk ends with the disk.
    pub fn bytes(&self, chunks: &Range<u64>) -> (u64, u64) {
        let start = chunks.start * self.map.chunk();
        (start, (chunks.end * self.map.chunk()).min(self.map.size()) - start)
    }

    /// Finds out what a request has to do first. What it is told to fetch is busy from here on, and so is what it
    /// claims; it claims only when there is nothing to wait for, so no two requests wait for each other.
    pub fn plan(self: &Arc<Self>, offset: u64, length: u64, what: Use, waiter: &Waiter) -> Plan {
        let mut busy = self.busy();
        let (mut times, mut fetch, mut claim) = (0, Vec::<Range<u64>>::new(), Vec::new());
        for chunk in self.touched(offset, length) {
            if self.map.has(chunk) {
                continue;
            }
            let (start, bytes) = self.bytes(&(chunk..chunk + 1));
            let whole = offset <= start && start + bytes <= offset + length;
            match busy.get_mut(&chunk) {
                Some(_) if what == Use::Discard => {} // either order will do
                Some(waiters) => {
                    waiters.push(waiter.clone());
                    times += 1;
                }
                None if what != Use::Read && whole => claim.push(chunk),
                None if what == Use::Discard => {}
                None => {
                    busy.insert(chunk, vec![waiter.clone()]);
                    times += 1;
                    match fetch.last_mut() {
                        Some(run) if run.end == chunk => run.end += 1,
                        _ => fetch.push(chunk..chunk + 1),
                    }
                }
            }
        }
        if times > 0 {
            return Plan::Wait { times, fetch };
        }
        busy.extend(claim.iter().map(|&chunk| (chunk, Vec::new())));
        Plan::Go(Claim { chunks: self.clone(), held: claim })
    }

    /// Ends the busy state of some chunks: they are present from here on, or missing again. Tells the waiters.
    pub fn finish(&self, chunks: impl IntoIterator<Item = u64>, present: bool, result: i32) {
        let mut waiters = Vec::new();
        let mut busy = self.busy();
        for chunk in chunks {
            if present {
                self.map.set(chunk);
            }
            waiters.extend(busy.remove(&chunk).unwrap_or_default());
        }
        drop(busy);
        for waiter in waiters {
            waiter.tell(result);
        }
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<u64, Vec<Waiter>>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chunks that a request overwrites for the first time. Dropped, they are missing again.
pub struct Claim {
    chunks: Arc<Chunks>,
    held: Vec<u64>,
}

impl Claim {
    /// They were overwritten: what the storage has is theirs.
    pub fn fulfil(mut self) {
        self.release(true);
    }

    fn release(&mut self, present: bool) {
        if !self.held.is_empty() {
            self.chunks.finish(std::mem::take(&mut self.held), present, 0);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 4096;

    fn chunks() -> Arc<Chunks> {
        Arc::new(Chunks::new(Map::volatile(10 * CHUNK - 512, CHUNK).unwrap()))
    }

    fn waiter(tag: u16) -> Waiter {
        let inbox = Arc::new(Inbox::new(Waker::new().unwrap()));
        Waiter { inbox, ticket: Ticket { tag, generation: 0, queue: 0 } }
    }

    fn waits(plan: &Plan) -> (u32, Vec<(u64, u64)>) {
        match plan {
            Plan::Go(claim) => panic!("goes with {:?}", claim.held),
            Plan::Wait { times, fetch } => (*times, fetch.iter().map(|run| (run.start, run.end)).collect()),
        }
    }

    fn goes(plan: Plan) -> Claim {
        match plan {
            Plan::Go(claim) => claim,
            Plan::Wait { times, fetch } => panic!("waits {times} times and fetches {fetch:?}"),
        }
    }

    #[test]
    fn a_read_fetches_each_missing_run_once_and_others_wait() {
        let (chunks, first, second) = (chunks(), waiter(1), waiter(2));
        chunks.map.set(2);
        let plan = chunks.plan(CHUNK / 2, 4 * CHUNK, Use::Read, &first);
        assert_eq!(waits(&plan), (4, vec![(0, 2), (3, 5)]));
        let plan = chunks.plan(0, 6 * CHUNK, Use::Read, &second);
        assert_eq!(waits(&plan), (5, vec![(5, 6)]));
        chunks.finish(0..2, true, 0);
        assert_eq!(first.inbox.take(), vec![(first.ticket, 0); 2]);
        chunks.finish(3..5, false, -5);
        assert_eq!(first.inbox.take(), vec![(first.ticket, -5); 2]);
        assert_eq!(second.inbox.take().len(), 4);
        // What failed is fetched again, what is there is not.
        assert_eq!(waits(&chunks.plan(0, 5 * CHUNK, Use::Read, &first)), (2, vec![(3, 5)]));
        goes(chunks.plan(0, 3 * CHUNK, Use::Read, &first));
    }

    #[test]
    fn whole_chunks_are_overwritten_without_a_fetch_and_parts_are_not() {
        let (chunks, waiter) = (chunks(), waiter(0));
        let plan = chunks.plan(512, 2 * CHUNK, Use::Overwrite, &waiter);
        assert_eq!(waits(&plan), (2, vec![(0, 1), (2, 3)]));
        chunks.finish(0..1, true, 0);
        chunks.finish(2..3, true, 0);
        let claim = goes(chunks.plan(512, 2 * CHUNK, Use::Overwrite, &waiter));
        assert_eq!(claim.held, [1]);
        assert_eq!(waits(&chunks.plan(CHUNK, 512, Use::Read, &waiter)), (1, vec![]));
        claim.fulfil();
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
}
