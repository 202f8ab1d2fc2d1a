//! Stores what was written: several segments at a time, of which only those count that have all before them.

use super::format::{Fence, LogId, Object, Record, Segment, sum};
use super::open::{again, who};
use super::state::Told;
use super::tail::read_object;
use super::volume::Volume;
use crate::store::{Created, StoreError};
use bytes::Bytes;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;
use tokio::time::Instant;
use ublk_core::error::ErrorKind;

/// The pauses after failures double from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long the store may fail until the owner is told.
const QUIETLY: Duration = Duration::from_secs(5);

/// Runs until the volume is closed or stopped.
pub async fn run(volume: Arc<Volume>) {
    let mut due = None;
    let mut shortens = None::<tokio::task::JoinHandle<()>>;
    loop {
        if volume.has_long_notes() && shortens.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let volume = volume.clone();
            shortens = Some(tokio::task::spawn_blocking(move || volume.shorten_notes()));
        }
        let (ready, open) = {
            let mut state = volume.state();
            if state.stopped().is_some() || volume.ending.load(SeqCst) {
                return;
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                due = None;
                state.seal();
            }
            let open = state.has_open();
            let sending = state.unsent().filter(|unsent| unsent.sending).count();
            let room = volume.lanes.load(Relaxed).saturating_sub(sending);
            // In their order: what is behind one that is not whole yet would count no sooner.
            let ready: Vec<_> = state
                .unsent()
                .take_while(|unsent| unsent.is_ready() || unsent.sending)
                .filter(|unsent| unsent.is_ready())
                .take(room)
                .map(|unsent| {
                    unsent.sending = true;
                    unsent.segment
                })
                .collect();
            (ready, open)
        };
        for segment in ready {
            tokio::spawn(send(volume.clone(), segment));
        }
        due = if open { Some(due.unwrap_or_else(|| Instant::now() + volume.tuning.delay)) } else { None };
        match due {
            None => volume.work.notified().await,
            Some(due) => drop(tokio::time::timeout_at(due, volume.work.notified()).await),
        }
    }
}

/// Stores a segment, or a record, however long that takes.
async fn send(volume: Arc<Volume>, number: u32) {
    let Some(object) = ready(&volume, number) else { return };
    let (id, header, body) = match &object {
        Ready::Record(record) => (record.id, Record::BLOCKS, vec![Bytes::from(record.encode())]),
        Ready::Segment(segment, data) => {
            (segment.id, segment.header, vec![Bytes::from(segment.encode()), data.clone()])
        }
    };
    let (key, length) = (id.key(), body.iter().map(|part| part.len() as u64).sum());
    let mut patience = Patience::new();
    let mut turn = None;
    loop {
        if volume.ending.load(SeqCst) {
            return;
        }
        let began = Instant::now();
        // An earlier try may have worked. A server that knows from the first bytes that it will refuse this one may not wait for the
        // others, and then its answer may be lost again.
        let there = match &turn {
            Some(_) => patience.watch(&volume, Way::Up, 0, whose(&volume, id, &object)).await,
            None => Whose::Nobody,
        };
        let created = match there {
            Whose::Nobody => {
                let call = volume.store.create(&key, body.clone());
                patience.watch(&volume, Way::Up, length, call).await
            }
            _ => Ok(Created::Exists),
        };
        drop(turn.take());
        match created {
            Ok(Created::Won) => {
                // Fast enough for another one beside it.
                if began.elapsed() < QUIETLY {
                    let more = |lanes| (lanes < volume.tuning.sends).then_some(lanes + 1);
                    let _ = volume.lanes.fetch_update(Relaxed, Relaxed, more);
                }
                break;
            }
            Ok(Created::Exists) => match there.or_ask(&volume, id, &object).await {
                Whose::Ours => break,
                Whose::Others(why) => return volume.fenced(why),
                Whose::Unknown(why) => tell_failed(&volume, &mut patience, &why),
                Whose::Nobody => tell_failed(&volume, &mut patience, "an object is there, and is not"),
            },
            Err(error) => {
                volume.counts.failures.fetch_add(1, Relaxed);
                volume.lanes.store(1, Relaxed);
                tell_failed(&volume, &mut patience, &error.message);
            }
        }
        patience.pause().await;
        // Several at a time may be what the way to the store is too narrow for: then none would ever arrive in time.
        turn = volume.retries.acquire().await.ok();
    }
    volume.report_again(Way::Up);
    volume.counts.segments.fetch_add(1, Relaxed);
    let told: Told = volume.state().sent(number, header);
    told.tell();
    volume.work.notify_one();
    volume.stored.notify_one();
}

/// What is to be stored.
enum Ready {
    Segment(Segment, Bytes),
    Record(Record),
}

/// Reads what is to be stored from the local file.
fn ready(volume: &Volume, number: u32) -> Option<Ready> {
    let (mut segment, start) = {
        let mut state = volume.state();
        let found = state.segment(number).clone();
        let unsent = state.unsent().find(|unsent| unsent.segment == number)?;
        let (id, blocks, writer) = (found.id, found.blocks, volume.writer.clone());
        if let Some(change) = unsent.record.clone() {
            return Some(Ready::Record(Record { id, writer, change }));
        }
        let extents = unsent.extents.clone();
        let header = super::format::header_blocks(extents.len());
        (Segment { id, writer, header, blocks, extents, data_sum: 0 }, found.local?)
    };
    match volume.load(start, segment.blocks as usize * 4096) {
        Ok(data) => {
            segment.data_sum = sum(&data);
            Some(Ready::Segment(segment, Bytes::from(data)))
        }
        Err(error) => {
            let why =
                format!("what was written cannot be read back from the cache: {error}; the disk has stopped");
            volume.stop(libc::EIO, why);
            None
        }
    }
}

/// A call for a segment has failed.
fn tell_failed(volume: &Volume, patience: &mut Patience, why: &str) {
    if let Some(why) = patience.failed(why) {
        let behind = volume.state().behind();
        volume.report_late(
            Way::Up,
            format!("{}: {why}; {behind} bytes wait to be stored", volume.store.name()),
        );
    }
}

enum Whose {
    Nobody,
    Ours,
    Others(String),
    Unknown(String),
}

impl Whose {
    /// Asks now if nobody's was there before.
    async fn or_ask(self, volume: &Volume, id: LogId, object: &Ready) -> Self {
        if matches!(self, Self::Nobody) { whose(volume, id, object).await } else { self }
    }
}

/// Finds out who created the object at a key of the log: this writer, with an earlier try, or another one.
async fn whose(volume: &Volume, id: LogId, object: &Ready) -> Whose {
    match (read_object(&*volume.store, id).await, object) {
        (Ok(Object::Segment(found)), Ready::Segment(segment, _)) if found == *segment => Whose::Ours,
        (Ok(Object::Record(found)), Ready::Record(record)) if found == *record => Whose::Ours,
        (Ok(Object::Fence(fence)), _) => Whose::Others(fenced(volume, &fence)),
        (Ok(Object::Segment(_) | Object::Record(_)), _) => Whose::Others(format!(
            "{}: somebody else writes this volume; the disk has stopped",
            volume.store.name()
        )),
        (Err(error), _) if error.kind == ErrorKind::NotFound => Whose::Nobody,
        (Err(error), _) => Whose::Unknown(error.message),
    }
}

fn fenced(volume: &Volume, fence: &Fence) -> String {
    format!(
        "{} was opened by {}: the disk has stopped, and what was not stored is in its cache",
        volume.store.name(),
        who(fence)
    )
}

/// Whether a call stores or reads.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    Up,
    Down,
}

/// When a call that failed is tried again, and when the owner is told.
pub struct Patience {
    /// The first try.
    since: Instant,
    pause: Duration,
    /// The owner was told, if nobody had told it before.
    told: bool,
}

impl Patience {
    /// The first try begins.
    pub fn new() -> Self {
        Self { since: Instant::now(), pause: PAUSES.0, told: false }
    }

    /// A call has failed. Once it has for long, what to tell the owner.
    pub fn failed(&mut self, why: &str) -> Option<String> {
        if self.told || self.since.elapsed() < QUIETLY {
            return None;
        }
        self.told = true;
        Some(format!("has failed for {} s: {why}", self.since.elapsed().as_secs()))
    }

    /// How long it has been tried.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits for a call that moves this number of bytes. If it takes long, the owner is told meanwhile.
    pub async fn watch<T>(
        &mut self,
        volume: &Volume,
        way: Way,
        bytes: u64,
        call: impl Future<Output = T>,
    ) -> T {
        let mut call = pin!(call);
        if !self.told {
            let quietly = QUIETLY + Duration::from_secs(bytes >> 18);
            match tokio::time::timeout_at(self.since + quietly, call.as_mut()).await {
                Ok(done) => return done,
                Err(_) => {
                    self.told = true;
                    let (name, seconds) = (volume.store.name(), self.since.elapsed().as_secs());
                    let waits = match way {
                        Way::Up => format!("{} bytes wait to be stored", volume.state().behind()),
                        Way::Down => "reads wait".to_owned(),
                    };
                    volume.report_late(way, format!("{name}: no answer for {seconds} s; {waits}"));
                }
            }
        }
        call.await
    }

    /// Until the next try.
    pub async fn pause(&mut self) {
        // Not all of a machine's disks at once.
        let part =
            u64::from(std::process::id()).wrapping_mul(0x9e37_79b9) ^ u64::from(self.pause.subsec_nanos());
        tokio::time::sleep(self.pause.mul_f64(0.75 + (part % 256) as f64 / 512.0)).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

/// Waits until all that was written is in the store.
pub async fn drain(volume: &Arc<Volume>) -> Result<(), i32> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    volume.flush_to_store(Box::new(move |result| {
        let _ = sender.send(result);
    }));
    match receiver.await {
        Ok(result) if result >= 0 => Ok(()),
        Ok(result) => Err(-result),
        Err(_) => Err(libc::EIO),
    }
}

/// Creates an object that nobody else creates.
pub async fn put(volume: &Volume, key: &str, body: Bytes) -> Result<(), StoreError> {
    let created = again(|| volume.store.create(key, vec![body.clone()])).await.map(drop);
    // An earlier try may have worked, and the answer to each later one be lost because the server did not wait for its body.
    match created {
        Err(error) if again(|| volume.store.get(key, Some(0..1))).await.is_err() => Err(error),
        _ => Ok(()),
    }
}
