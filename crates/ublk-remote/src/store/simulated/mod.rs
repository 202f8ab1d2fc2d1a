//! A store for tests that does what a network and a server may do: delays, errors before and after the effect, effects after
//! the caller gave up or a second time, outages, and clients that crash or stand still while their requests are on the way.
//!
//! A seed decides all of it, on tokio's paused clock: `#[tokio::test(start_paused = true)]`. Lists are as consistent as those of
//! S3: each page is of one moment, a list of several pages is not.

mod client;
#[cfg(test)]
mod tests;

use super::{Created, Entry};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

pub use client::Simulated;

/// How likely what is. Probabilities are between 0 and 1; at most one of them happens to a request.
#[derive(Debug, Clone)]
pub struct Weather {
    /// How long a request takes to have its effect, and its answer to come back.
    pub delay: Range<Duration>,
    /// How likely a request takes as long as something late.
    pub slow: f64,
    /// An error, without any effect.
    pub refused: f64,
    /// An error, after the effect.
    pub lost: f64,
    /// An error, and the effect comes later.
    pub late: f64,
    /// The effect comes once more later.
    pub twice: f64,
    /// How much later.
    pub lateness: Range<Duration>,
    /// How many entries a page of a list has.
    pub page: usize,
}

impl Weather {
    /// Delays, and nothing else.
    pub fn calm() -> Self {
        let (delay, lateness) = (ms(2)..ms(40), ms(50)..ms(20_000));
        Self { delay, slow: 0.0, refused: 0.0, lost: 0.0, late: 0.0, twice: 0.0, lateness, page: 1000 }
    }

    /// A third of all requests goes wrong in some way.
    pub fn stormy() -> Self {
        Self { slow: 0.05, refused: 0.08, lost: 0.08, late: 0.08, twice: 0.1, page: 5, ..Self::calm() }
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What had an effect in a bucket, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Since the bucket was made.
    pub at: Duration,
    /// The number of the client that asked for it.
    pub client: usize,
    /// What it was.
    pub change: Change,
}

/// What an effect changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An object was created.
    Created(String),
    /// An object was not created, as there was one.
    Kept(String),
    /// An object was replaced: only a store that lies does this.
    Replaced(String),
    /// An object was deleted.
    Deleted(String),
}

/// Objects, which outlive all clients.
#[derive(Clone)]
pub struct Bucket(Arc<Mutex<State>>);

struct State {
    objects: BTreeMap<String, (Bytes, SystemTime)>,
    effects: Vec<Effect>,
    random: Random,
    weather: Weather,
    /// Until when nothing goes through.
    outage: Instant,
    began: Instant,
    lies: bool,
    clients: usize,
}

impl Bucket {
    /// An empty one. Its clock is tokio's.
    pub fn new(seed: u64, weather: Weather) -> Self {
        let began = Instant::now();
        let random = Random(seed);
        let (objects, effects) = (BTreeMap::new(), Vec::new());
        let state =
            State { objects, effects, random, weather, outage: began, began, lies: false, clients: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// One whose conditional PUT looks first, and writes some time later whatever it finds then.
    pub fn that_lies(seed: u64, weather: Weather) -> Self {
        let bucket = Self::new(seed, weather);
        bucket.state().lies = true;
        bucket
    }

    /// A new client: a process that uses the bucket.
    pub fn client(&self) -> Arc<Simulated> {
        let mut state = self.state();
        state.clients += 1;
        Arc::new(Simulated::new(self.clone(), state.clients))
    }

    /// Changes the weather, for requests that come from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Nothing goes through for a while, for nobody.
    pub fn outage(&self, duration: Duration) {
        self.state().outage = Instant::now() + duration;
    }

    /// All objects, as they are now.
    pub fn contents(&self) -> BTreeMap<String, Bytes> {
        self.state().objects.iter().map(|(key, (body, _))| (key.clone(), body.clone())).collect()
    }

    /// An object, as it is now.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|(body, _)| body.clone())
    }

    /// Puts an object there, or replaces it: damage, for tests of who reads it.
    pub fn put(&self, key: &str, body: Bytes) {
        let mut state = self.state();
        let now = state.now();
        state.objects.insert(key.to_owned(), (body, now));
    }

    /// Takes an object away.
    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// All that had an effect so far.
    pub fn effects(&self) -> Vec<Effect> {
        self.state().effects.clone()
    }

    /// The store's clock.
    pub fn now(&self) -> SystemTime {
        self.state().now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.began.elapsed()
    }

    fn record(&mut self, client: usize, change: Change) {
        let at = self.began.elapsed();
        self.effects.push(Effect { at, client, change });
    }

    fn create(&mut self, client: usize, key: &str, body: &Bytes) -> Created {
        if self.objects.contains_key(key) {
            self.record(client, Change::Kept(key.to_owned()));
            return Created::Exists;
        }
        self.insert(client, key, body);
        Created::Won
    }

    fn insert(&mut self, client: usize, key: &str, body: &Bytes) {
        let now = self.now();
        let before = self.objects.insert(key.to_owned(), (body.clone(), now));
        let change = if before.is_some() { Change::Replaced } else { Change::Created };
        self.record(client, change(key.to_owned()));
    }

    fn delete(&mut self, client: usize, keys: &[String]) {
        for key in keys {
            if self.objects.remove(key).is_some() {
                self.record(client, Change::Deleted(key.clone()));
            }
        }
    }

    fn page(&self, prefix: &str, after: Option<&str>) -> (Vec<Entry>, bool) {
        let from = after.map_or(Unbounded, Excluded);
        let wanted =
            self.objects.range::<str, _>((from, Unbounded)).filter(|(key, _)| key.starts_with(prefix));
        let mut wanted = wanted.map(|(key, (body, changed))| Entry {
            key: key.clone(),
            size: body.len() as u64,
            changed: Some(*changed),
        });
        let page = wanted.by_ref().take(self.weather.page).collect();
        (page, wanted.next().is_some())
    }

    fn fate(&mut self) -> Fate {
        let Weather { delay, slow, refused, lost, late, twice, lateness, .. } = self.weather.clone();
        let mut arrives = self.random.between(&delay);
        if self.random.chance(slow) {
            arrives += self.random.between(&lateness);
        }
        let (returns, later) = (self.random.between(&delay), self.random.between(&lateness));
        let mut draw = self.random.unit();
        let mut happens = |probability: f64| {
            draw -= probability;
            draw < 0.0
        };
        let what = if happens(refused) {
            What::Refused
        } else if happens(lost) {
            What::Lost
        } else if happens(late) {
            What::Late
        } else if happens(twice) {
            What::Twice
        } else {
            What::Done
        };
        Fate { arrives, returns, later, what }
    }
}

/// What becomes of a request.
struct Fate {
    arrives: Duration,
    returns: Duration,
    later: Duration,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Done,
    Refused,
    Lost,
    Late,
    Twice,
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / 4_294_967_296.0
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    fn between(&mut self, range: &Range<Duration>) -> Duration {
        let span = range.end.saturating_sub(range.start);
        range.start + span.mul_f64(self.unit())
    }
}
