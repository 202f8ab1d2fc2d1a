//! A client of the simulated store, and the way of its requests.

use super::{Bucket, Fate, State, What};
use crate::store::{Answer, Counting, Created, Entry, Store, StoreCounters, StoreError, StoreErrorKind};
use bytes::Bytes;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

/// How a client is.
struct Condition {
    crashed: bool,
    frozen: Instant,
    cut_off: Instant,
}

/// A client of a bucket.
pub struct Simulated {
    name: String,
    line: Line,
}

/// The part of a client that its requests keep.
#[derive(Clone)]
struct Line {
    bucket: Bucket,
    number: usize,
    condition: Arc<Mutex<Condition>>,
    counting: Arc<Counting>,
}

impl Simulated {
    pub(super) fn new(bucket: Bucket, number: usize) -> Self {
        let now = Instant::now();
        let condition = Arc::new(Mutex::new(Condition { crashed: false, frozen: now, cut_off: now }));
        let line = Line { bucket, number, condition, counting: Arc::new(Counting::default()) };
        Self { name: format!("sim://{number}"), line }
    }

    /// Its process dies. What it has asked for may still have its effect, much later too; it learns nothing any more: all its
    /// calls fail.
    pub fn crash(&self) {
        self.line.condition().crashed = true;
    }

    /// Its process stands still for a while, as after SIGSTOP: it asks nothing and hears nothing, and what it has asked for goes
    /// on.
    pub fn freeze(&self, duration: Duration) {
        self.line.condition().frozen = Instant::now() + duration;
    }

    /// It has no connection for a while. Others have.
    pub fn cut_off(&self, duration: Duration) {
        self.line.condition().cut_off = Instant::now() + duration;
    }
}

fn unavailable(why: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, format!("simulated: {why}"))
}

impl Line {
    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crashed(&self) -> bool {
        self.condition().crashed
    }

    /// Waits while it stands still; an error once it has crashed.
    async fn alive(&self) -> Result<(), StoreError> {
        loop {
            let (crashed, frozen) = {
                let condition = self.condition();
                (condition.crashed, condition.frozen)
            };
            if crashed {
                return Err(StoreError::new(StoreErrorKind::Refused, "simulated: this client has crashed"));
            }
            if frozen <= Instant::now() {
                return Ok(());
            }
            sleep_until(frozen).await;
        }
    }

    /// Whether anything goes through.
    fn connected(&self) -> bool {
        let now = Instant::now();
        self.bucket.state().outage <= now && self.condition().cut_off <= now
    }

    /// A request whose effect is this, once or more often.
    async fn ask<T: Send + 'static>(
        self,
        effect: impl Fn(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.alive().await?;
        let fate = self.bucket.state().fate();
        let (tell, told) = oneshot::channel();
        let line = self.clone();
        // A task of its own: it goes on if the caller gives up.
        tokio::spawn(async move { line.travel(fate, effect, tell).await });
        let answer = told.await.unwrap_or_else(|_| Err(unavailable("no answer")));
        self.alive().await?;
        if answer.as_ref().is_err_and(|error| error.kind != StoreErrorKind::NotFound) {
            self.counting.failed();
        }
        answer
    }

    async fn travel<T>(
        self,
        fate: Fate,
        effect: impl Fn(&mut State) -> Result<T, StoreError>,
        tell: oneshot::Sender<Result<T, StoreError>>,
    ) {
        sleep(fate.arrives).await;
        if !self.connected() {
            let _ = tell.send(Err(unavailable("no connection")));
            return;
        }
        if fate.what == What::Refused {
            let _ = tell.send(Err(unavailable("refused before the effect")));
            return;
        }
        if fate.what == What::Late {
            let _ = tell.send(Err(unavailable("given up before the effect")));
            sleep(fate.later).await;
            let _ = effect(&mut self.bucket.state());
            return;
        }
        if self.crashed() {
            // What a dead process has sent is somewhere on the way: it comes now, later or never.
            let (never, later) = {
                let random = &mut self.bucket.state().random;
                (random.chance(0.3), random.chance(0.5))
            };
            if never {
                return;
            }
            if later {
                sleep(fate.later).await;
            }
        }
        let result = effect(&mut self.bucket.state());
        sleep(fate.returns).await;
        let lost = fate.what == What::Lost || !self.connected();
        let _ = tell.send(if lost { Err(unavailable("the answer is lost")) } else { result });
        if fate.what == What::Twice {
            sleep(fate.later).await;
            let _ = effect(&mut self.bucket.state());
        }
    }

    /// A conditional PUT of a store that lies: it looks, and some time later writes.
    async fn create_without_looking_again(self, key: String, body: Bytes) -> Result<Created, StoreError> {
        let (line, looked_for) = (self.clone(), key.clone());
        let there = line.ask(move |state| Ok(state.objects.contains_key(&looked_for))).await?;
        if there {
            return Ok(Created::Exists);
        }
        let number = self.number;
        let write = move |state: &mut State| {
            state.insert(number, &key, &body);
            Ok(Created::Won)
        };
        self.ask(write).await
    }
}

impl Store for Simulated {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, key: &str, body: Vec<Bytes>) -> Answer<Created> {
        let (line, key, number) = (self.line.clone(), key.to_owned(), self.line.number);
        let body = Bytes::from(body.concat());
        Box::pin(async move {
            line.counting.put(body.len() as u64);
            let lies = line.bucket.state().lies;
            if lies {
                return line.create_without_looking_again(key, body).await;
            }
            line.ask(move |state| Ok(state.create(number, &key, &body))).await
        })
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Answer<Bytes> {
        let (line, key) = (self.line.clone(), key.to_owned());
        Box::pin(async move {
            if range.as_ref().is_some_and(Range::is_empty) {
                return Ok(Bytes::new());
            }
            line.counting.gets.fetch_add(1, Relaxed);
            let counting = line.counting.clone();
            let read = move |state: &mut State| {
                let missing =
                    || StoreError::new(StoreErrorKind::NotFound, format!("simulated: there is no {key}"));
                let (body, _) = state.objects.get(&key).ok_or_else(missing)?;
                let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
                Ok(match &range {
                    Some(range) => body.slice(cut(range.start)..cut(range.end)),
                    None => body.clone(),
                })
            };
            let bytes = line.ask(read).await?;
            counting.bytes_down.fetch_add(bytes.len() as u64, Relaxed);
            Ok(bytes)
        })
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<Entry>> {
        let (line, prefix, mut after) = (self.line.clone(), prefix.to_owned(), after.map(str::to_owned));
        Box::pin(async move {
            let mut entries: Vec<Entry> = Vec::new();
            loop {
                line.counting.lists.fetch_add(1, Relaxed);
                let (prefix, from) = (prefix.clone(), after.clone());
                let (page, more) =
                    line.clone().ask(move |state| Ok(state.page(&prefix, from.as_deref()))).await?;
                after = page.last().map(|entry| entry.key.clone());
                entries.extend(page);
                if !more {
                    return Ok(entries);
                }
            }
        })
    }

    fn delete(&self, keys: Vec<String>) -> Answer<()> {
        let (line, number) = (self.line.clone(), self.line.number);
        Box::pin(async move {
            line.counting.deletes.fetch_add(keys.len() as u64, Relaxed);
            let delete = move |state: &mut State| {
                state.delete(number, &keys);
                Ok(())
            };
            line.ask(delete).await
        })
    }

    fn counters(&self) -> StoreCounters {
        self.line.counting.read()
    }
}
