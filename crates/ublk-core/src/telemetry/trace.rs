//! Passes every answered request to listeners, if there are any. A queue records its answers before it enters its ring, and the
//! listener's own thread collects them some times per second. So a queue never wakes a listener and never waits for one:
//! records that are not collected in time are lost, and counted.

use crate::error::{Error, ErrorKind, Result};
use crate::request::Descriptor;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The number of its queue.
    pub queue: u16,
    /// Its tag there.
    pub tag: u16,
    /// Its operation, range and flags.
    pub what: Descriptor,
    /// Bytes done, or an error number, negative.
    pub result: i32,
    /// Which rules of a disk with faults were applied to it: bit 0 is the first rule.
    pub faults: u32,
    /// When its answer went out, in ticks of the [`clock`](super::clock()).
    pub ended: u64,
    /// Its service time in ticks: from the queue's turn in which it arrived to the one in which its answer was sent.
    pub ticks: u64,
}

/// What a listener gets at a time.
#[non_exhaustive]
pub struct Batch<'a> {
    /// In the order of a queue's answers.
    pub records: &'a [Record],
    /// How many further ones were lost since the previous batch.
    pub dropped: u64,
    /// Whether it is the last one.
    pub last: bool,
}

/// Gets batches, on its own thread. It may block: records are kept meanwhile, up to a limit.
pub type Listener = Box<dyn FnMut(&Batch<'_>) + Send>;

/// A device's listeners.
pub struct Tracer {
    wanted: AtomicBool,
    subscribers: Mutex<Subscribers>,
}

struct Subscribers {
    // Never grows: a queue waits for this lock, so its holder must not wait for memory.
    list: Vec<Arc<Subscriber>>,
    closed: bool,
}

/// How many listeners a device may have.
const MOST_LISTENERS: usize = 8;
/// How many records are kept for each.
const MOST_RECORDS: usize = 1 << 15;
/// How often they are delivered.
const PERIOD: Duration = Duration::from_millis(20);

impl Default for Tracer {
    fn default() -> Self {
        let subscribers = Subscribers { list: Vec::with_capacity(MOST_LISTENERS), closed: false };
        Self { wanted: AtomicBool::new(false), subscribers: Mutex::new(subscribers) }
    }
}

impl Tracer {
    /// Whether there are listeners.
    #[inline]
    pub fn wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// Passes answered requests to all listeners.
    pub fn note(&self, records: impl Iterator<Item = Record> + Clone) {
        for subscriber in &lock(&self.subscribers).list {
            subscriber.kept().add(records.clone());
        }
    }

    /// Listens from now on, until the [`Tracing`] is dropped or the device is deleted; then comes the last batch.
    pub fn listen(self: &Arc<Self>, listener: Listener) -> Result<Tracing> {
        let subscriber = Arc::new(Subscriber::new(MOST_RECORDS));
        {
            let mut subscribers = lock(&self.subscribers);
            if subscribers.closed {
                return Err(Error::new(ErrorKind::Closed, "the device was deleted"));
            }
            if subscribers.list.len() >= MOST_LISTENERS {
                let message = format!("the device is traced {MOST_LISTENERS} times already");
                return Err(Error::new(ErrorKind::Limit, message));
            }
            subscribers.list.push(subscriber.clone());
            self.wanted.store(true, Relaxed);
        }
        let tracing = Tracing { tracer: self.clone(), subscriber: subscriber.clone() };
        std::thread::Builder::new()
            .name("ublk-trace".into())
            .spawn(move || subscriber.deliver(MOST_RECORDS, listener))
            .map_err(|error| Error::system("cannot start a thread", &error))?;
        Ok(tracing)
    }

    /// Ends all listeners after their last batch.
    pub fn close(&self) {
        let mut subscribers = lock(&self.subscribers);
        subscribers.closed = true;
        self.wanted.store(false, Relaxed);
        let ended = std::mem::take(&mut subscribers.list);
        drop(subscribers);
        ended.iter().for_each(|subscriber| subscriber.end());
    }

    fn remove(&self, subscriber: &Arc<Subscriber>) {
        let mut subscribers = lock(&self.subscribers);
        subscribers.list.retain(|other| !Arc::ptr_eq(other, subscriber));
        self.wanted.store(!subscribers.list.is_empty(), Relaxed);
        drop(subscribers);
        subscriber.end();
    }
}

/// Listens until dropped.
pub struct Tracing {
    tracer: Arc<Tracer>,
    subscriber: Arc<Subscriber>,
}

impl Drop for Tracing {
    fn drop(&mut self) {
        self.tracer.remove(&self.subscriber);
    }
}

/// What is kept for one listener.
struct Subscriber {
    kept: Mutex<Kept>,
    bell: Condvar,
}

struct Kept {
    /// Never grows.
    records: Vec<Record>,
    dropped: u64,
    ended: bool,
}

impl Kept {
    fn add(&mut self, records: impl Iterator<Item = Record>) {
        for record in records {
            if self.records.len() < self.records.capacity() {
                self.records.push(record);
            } else {
                self.dropped += 1;
            }
        }
    }
}

impl Subscriber {
    fn new(most: usize) -> Self {
        let kept = Kept { records: Vec::with_capacity(most), dropped: 0, ended: false };
        Self { kept: Mutex::new(kept), bell: Condvar::new() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    fn end(&self) {
        self.kept().ended = true;
        self.bell.notify_all();
    }

    fn deliver(&self, most: usize, mut listener: Listener) {
        // Takes turns with the one that is filled.
        let mut records = Vec::with_capacity(most);
        loop {
            records.clear();
            let (mut kept, _) = self
                .bell
                .wait_timeout_while(self.kept(), PERIOD, |kept| !kept.ended)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut kept.records, &mut records);
            let (dropped, last) = (std::mem::take(&mut kept.dropped), kept.ended);
            drop(kept);
            if last || dropped > 0 || !records.is_empty() {
                listener(&Batch { records: &records, dropped, last });
            }
            if last {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Op;
    use std::sync::mpsc::{Receiver, channel};

    fn record(tag: u16) -> Record {
        let what = Descriptor::new(Op::Read, 0, 512);
        Record { queue: 0, tag, what, result: 512, faults: 0, ended: 0, ticks: 1 }
    }

    /// Sends the tags and the losses of each batch; ends with the last.
    fn listener() -> (Listener, Receiver<(Vec<u16>, u64)>) {
        let (send, receive) = channel();
        let listener = move |batch: &Batch<'_>| {
            let tags = batch.records.iter().map(|record| record.tag).collect();
            send.send((tags, batch.dropped)).unwrap();
        };
        (Box::new(listener), receive)
    }

    fn tags(batches: &Receiver<(Vec<u16>, u64)>) -> Vec<u16> {
        batches.iter().flat_map(|(tags, _)| tags).collect()
    }

    #[test]
    fn every_listener_is_told_of_everything_in_order_until_it_listens_no_more() {
        let tracer = Arc::<Tracer>::default();
        let ((first, from_first), (second, from_second)) = (listener(), listener());
        let first = tracer.listen(first).unwrap();
        let second = tracer.listen(second).unwrap();
        tracer.note((0..3).map(record));
        tracer.note((3..5).map(record));
        drop(first);
        assert_eq!(tags(&from_first), [0, 1, 2, 3, 4]);
        tracer.note((5..6).map(record));
        assert!(tracer.wanted());
        drop(second);
        assert_eq!(tags(&from_second), [0, 1, 2, 3, 4, 5]);
        assert!(!tracer.wanted());
    }

    #[test]
    fn what_is_there_is_delivered_while_it_goes_on() {
        let tracer = Arc::<Tracer>::default();
        let (listener, batches) = listener();
        let _tracing = tracer.listen(listener).unwrap();
        for tag in 0..3 {
            tracer.note([record(tag)].into_iter());
            assert_eq!(batches.recv_timeout(Duration::from_secs(20)).unwrap(), (vec![tag], 0));
        }
    }

    #[test]
    fn what_is_not_taken_in_time_is_lost_and_counted() {
        let subscriber = Arc::new(Subscriber::new(4));
        subscriber.kept().add((0..6).map(record));
        subscriber.end();
        let (listener, batches) = listener();
        subscriber.deliver(4, listener);
        assert_eq!(batches.iter().collect::<Vec<_>>(), [(vec![0, 1, 2, 3], 2)]);
    }

    #[test]
    fn a_listener_that_blocks_loses_what_is_too_much_and_nothing_else() {
        let tracer = Arc::<Tracer>::default();
        let (proceed, blocked) = channel::<()>();
        let (send, batches) = channel();
        let tracing = tracer.listen(Box::new(move |batch| {
            send.send((batch.records.len(), batch.dropped)).unwrap();
            let _ = blocked.recv();
        }));
        tracer.note([record(0)].into_iter());
        assert_eq!(batches.recv().unwrap(), (1, 0));
        tracer.note((0..MOST_RECORDS + 7).map(|_| record(1)));
        drop((tracing, proceed));
        assert_eq!(batches.iter().collect::<Vec<_>>(), [(MOST_RECORDS, 7)]);
    }

    #[test]
    fn a_deleted_device_ends_its_listeners_and_takes_no_more() {
        let tracer = Arc::<Tracer>::default();
        let (listen, batches) = listener();
        let tracing = tracer.listen(listen).unwrap();
        tracer.note([record(0)].into_iter());
        tracer.close();
        assert_eq!(tags(&batches), [0]);
        assert_eq!(tracer.listen(listener().0).err().unwrap().kind, ErrorKind::Closed);
        drop(tracing);
    }

    #[test]
    fn there_is_a_limit_to_listeners() {
        let tracer = Arc::<Tracer>::default();
        let listening: Vec<_> = (0..MOST_LISTENERS).map(|_| tracer.listen(listener().0).unwrap()).collect();
        assert_eq!(tracer.listen(listener().0).err().unwrap().kind, ErrorKind::Limit);
        drop(listening);
        tracer.listen(listener().0).unwrap();
    }
}
