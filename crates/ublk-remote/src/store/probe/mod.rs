//! Finds a store out before it is trusted with a disk: whether of several who create an object exactly one wins, whether what was
//! written is read and listed at once, and what requests take.
//!
//! A disk's log relies on all of this. Not every store that answers to conditional requests is atomic, and one that is not loses
//! what was acknowledged without any error.

mod report;
#[cfg(test)]
mod tests;

pub use report::{Finding, Latency, Probe, ProbeOptions, Verdict};

use report::{advice, latency, since};

use super::{Created, Store, StoreError, StoreErrorKind};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const SMALL: usize = 4096;

/// How many large objects are on the way at a time.
const LARGE_AT_ONCE: usize = 4;

/// Looks at a store, below a prefix of its own that it removes again. An error if not even one object can be created.
pub async fn probe(store: &Arc<dyn Store>, options: ProbeOptions) -> Result<Probe, StoreError> {
    let before = store.counters();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let prefix = format!("probe-{now:x}-{}", std::process::id());
    let mut probing = Probing { store: store.clone(), prefix, findings: Vec::new() };
    let first = probing.key("first");
    // Its error says what is wrong with the address or the credentials.
    probing.create(&first, content(0, 64)).await?;

    probing.existing(&first).await;
    probing.races(&first, options).await;
    let (put, get) = probing.small(options.samples).await;
    let throughput = if options.large == 0 { (0, 0) } else { probing.large(options.large).await };
    probing.deleted().await;
    probing.clean().await;

    let verdicts = || probing.findings.iter().map(|finding| finding.verdict);
    let verdict = if verdicts().any(|verdict| verdict == Verdict::Unsound) {
        Verdict::Unsound
    } else if verdicts().any(|verdict| verdict == Verdict::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Sound
    };
    let advice = advice(verdict, put, throughput);
    let requests = since(store.counters(), before);
    let store = store.name().to_owned();
    Ok(Probe { store, verdict, findings: probing.findings, put, get, throughput, advice, requests })
}

struct Probing {
    store: Arc<dyn Store>,
    prefix: String,
    findings: Vec<Finding>,
}

impl Probing {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn found(&mut self, name: &'static str, verdict: Verdict, text: impl Into<String>) {
        self.findings.push(Finding { name, verdict, text: text.into() });
    }

    /// A finding that an error kept from being made.
    fn failed(&mut self, name: &'static str, error: &StoreError) {
        self.found(name, Verdict::Unknown, format!("cannot tell: {error}"));
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<Created, StoreError> {
        again(|| self.store.create(key, vec![body.clone()])).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        again(|| self.store.get(key, None)).await
    }

    async fn list(&self, name: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        let prefix = self.key(name);
        let entries = again(|| self.store.list(&prefix, after)).await?;
        Ok(entries.into_iter().map(|entry| entry.key).collect())
    }

    /// A second creation of an object.
    async fn existing(&mut self, first: &str) {
        const NAME: &str = "create-existing";
        let result = match self.create(first, content(1, 64)).await {
            Err(error) => Err(error),
            Ok(created) => self.get(first).await.map(|body| (created, body)),
        };
        match result {
            Err(error) if error.kind == StoreErrorKind::Refused => {
                self.found(
                    NAME,
                    Verdict::Unsound,
                    format!("it cannot create an object only if there is none: {error}"),
                );
            }
            Err(error) => self.failed(NAME, &error),
            Ok((Created::Exists, body)) if body == content(0, 64) => {
                self.found(
                    NAME,
                    Verdict::Sound,
                    "an object that exists is not created again, and keeps its content",
                );
            }
            Ok(_) => self.found(
                NAME,
                Verdict::Unsound,
                "an object that exists was created again: it ignores the condition If-None-Match",
            ),
        }
    }

    /// Several creators of one key at once.
    async fn races(&mut self, first: &str, options: ProbeOptions) {
        const NAME: &str = "conditional-put";
        // Each has a connection already, so that they are as close as can be.
        let mut warm = JoinSet::new();
        for _ in 0..options.creators {
            warm.spawn(self.store.get(first, None));
        }
        while warm.join_next().await.is_some() {}
        let (mut several, mut replaced, mut nobody, mut unknown, mut most) = (0, 0, 0, 0, 0);
        let mut last = None;
        for round in 0..options.rounds {
            // Small ones arrive together; large ones take long to be written.
            let size = if round % 2 == 0 { 64 } else { 256 << 10 };
            match self.race(&self.key(&format!("race-{round}")), options.creators, size).await {
                Ok(Race { winners, .. }) if winners > 1 => {
                    several += 1;
                    most = most.max(winners);
                }
                Ok(Race { winners: 1, kept: true, .. }) => {}
                Ok(Race { winners: 1, .. }) => replaced += 1,
                Ok(Race { unanswered: true, kept: true, .. }) => {}
                Ok(Race { unanswered: true, .. }) => unknown += 1,
                Ok(_) => nobody += 1,
                Err(error) => {
                    unknown += 1;
                    last = Some(error);
                }
            }
        }
        let (rounds, creators) = (options.rounds, options.creators);
        if several > 0 {
            let text = format!(
                "in {several} of {rounds} races of {creators} who create one object, several won, up to {most}: its \
                 conditional PUT is not atomic"
            );
            self.found(NAME, Verdict::Unsound, text);
        } else if replaced > 0 {
            let text =
                format!("in {replaced} of {rounds} races the winner's content was replaced by a loser's");
            self.found(NAME, Verdict::Unsound, text);
        } else if nobody > 0 {
            self.found(
                NAME,
                Verdict::Unsound,
                format!("in {nobody} of {rounds} races nobody created the object"),
            );
        } else if unknown * 2 > rounds {
            let why = last.map_or_else(|| "requests were not answered".to_owned(), |error| error.message);
            self.found(
                NAME,
                Verdict::Unknown,
                format!("cannot tell: {unknown} of {rounds} races failed: {why}"),
            );
        } else {
            let text =
                format!("in each of {} races of {creators} who create one object, one won", rounds - unknown);
            self.found(NAME, Verdict::Sound, text);
        }
    }

    async fn race(&self, key: &str, creators: usize, size: usize) -> Result<Race, StoreError> {
        let mut racing = JoinSet::new();
        for number in 0..creators {
            let creating = self.store.create(key, vec![content(number, size)]);
            racing.spawn(async move { (number, creating.await) });
        }
        let (mut won, mut unanswered, mut error) = (Vec::new(), Vec::new(), None);
        while let Some(ended) = racing.join_next().await {
            let Ok((number, created)) = ended else { continue };
            match created {
                Ok(Created::Won) => won.push(number),
                Ok(Created::Exists) => {}
                Err(failed) if failed.kind == StoreErrorKind::Unavailable => unanswered.push(number),
                Err(failed) => error = Some(failed),
            }
        }
        if let (true, Some(error)) = (won.is_empty(), error) {
            return Err(error);
        }
        let body = match self.get(key).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => None,
            body => Some(body?),
        };
        let may_be_of = if won.is_empty() { &unanswered } else { &won };
        let kept = body.is_some_and(|body| may_be_of.iter().any(|number| content(*number, size) == body));
        Ok(Race { winners: won.len(), kept, unanswered: !unanswered.is_empty() })
    }

    /// Small objects, one after the other: each is there at once, and so are parts of it and lists of all.
    async fn small(&mut self, samples: usize) -> (Latency, Latency) {
        let (mut puts, mut gets) = (Vec::new(), Vec::new());
        // What is there; and what may be there, as the answer was lost.
        let (mut there, mut perhaps) = (Vec::new(), Vec::new());
        let (mut stale, mut failed) = (0, None);
        for number in 0..samples {
            let (key, body) = (self.key(&format!("small-{number:04}")), content(number, SMALL));
            let began = Instant::now();
            match self.store.create(&key, vec![body.clone()]).await {
                Ok(_) => puts.push(began.elapsed()),
                Err(error) => {
                    failed = Some(error);
                    perhaps.push(key);
                    continue;
                }
            }
            let began = Instant::now();
            match self.store.get(&key, None).await {
                Ok(read) => {
                    gets.push(began.elapsed());
                    stale += usize::from(read != body);
                }
                Err(error) if error.kind == StoreErrorKind::NotFound => stale += 1,
                Err(error) => failed = Some(error),
            }
            there.push((number, key));
        }
        match failed {
            _ if stale > 0 => self.found(
                "read-after-write",
                Verdict::Unsound,
                format!("{stale} of {samples} objects were not read as they had just been written"),
            ),
            Some(error) if gets.len() * 2 < samples => self.failed("read-after-write", &error),
            _ => {
                let text = format!("all of {} objects were read as they had just been written", gets.len());
                self.found("read-after-write", Verdict::Sound, text);
            }
        }
        if let Some((number, key)) = there.first() {
            self.ranges(key, &content(*number, SMALL)).await;
            let keys: Vec<_> = there.iter().map(|(_, key)| key.as_str()).collect();
            self.lists(&keys, &perhaps).await;
        }
        (latency(puts), latency(gets))
    }

    async fn ranges(&mut self, key: &str, whole: &Bytes) {
        for (range, expected) in [(1000..3000, 1000..3000), (4000..9000, 4000..SMALL), (9000..9001, 0..0)] {
            match again(|| self.store.get(key, Some(range.clone()))).await {
                Err(error) => return self.failed("range", &error),
                Ok(read) if read == whole.slice(expected) => {}
                Ok(read) => {
                    let text = format!(
                        "of bytes {} to {} it sent {} bytes, or others",
                        range.start,
                        range.end,
                        read.len()
                    );
                    return self.found("range", Verdict::Unsound, text);
                }
            }
        }
        self.found("range", Verdict::Sound, "parts of an object are read");
    }

    async fn lists(&mut self, keys: &[&str], perhaps: &[String]) {
        let middle = keys[keys.len() / 2];
        let lists = match self.list("small-", None).await {
            Ok(all) => self.list("small-", Some(middle)).await.map(|above| (all, above)),
            Err(error) => Err(error),
        };
        let (mut all, mut above) = match lists {
            Err(error) => return self.failed("list", &error),
            Ok(lists) => lists,
        };
        for list in [&mut all, &mut above] {
            list.retain(|key| !perhaps.contains(key));
        }
        let expected = &keys[keys.len() / 2 + 1..];
        if all == keys && above == expected {
            return self.found(
                "list",
                Verdict::Sound,
                "what was just written is in the list, in the order of keys",
            );
        }
        let text = format!(
            "the list of {} objects that had just been written has {}, and that of the {} above one of them {}",
            keys.len(),
            all.len(),
            expected.len(),
            above.len()
        );
        self.found("list", Verdict::Unsound, text);
    }

    /// Bytes a second up and down; nothing is concluded from them.
    async fn large(&self, size: usize) -> (u64, u64) {
        let mut rates = [0, 0];
        for (rate, up) in rates.iter_mut().zip([true, false]) {
            let began = Instant::now();
            let mut moving = JoinSet::new();
            for number in 0..LARGE_AT_ONCE {
                let (store, key) = (self.store.clone(), self.key(&format!("large-{number}")));
                moving.spawn(async move {
                    if up {
                        store.create(&key, vec![content(number, size)]).await.is_ok()
                    } else {
                        store.get(&key, None).await.is_ok()
                    }
                });
            }
            let mut moved = 0;
            while let Some(ended) = moving.join_next().await {
                moved += u64::from(ended.unwrap_or(false)) * size as u64;
            }
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
            *rate = moved.saturating_mul(1_000_000) / micros;
        }
        (rates[0], rates[1])
    }

    /// What is deleted is gone at once, and deleting it again is no error.
    async fn deleted(&mut self) {
        let key = self.key("first");
        let gone = async {
            for _ in 0..2 {
                again(|| self.store.delete(vec![key.clone()])).await?;
            }
            let listed = self.list("first", None).await?.len();
            match self.get(&key).await {
                Err(error) if error.kind == StoreErrorKind::NotFound => Ok(listed == 0),
                Err(error) => Err(error),
                Ok(_) => Ok(false),
            }
        };
        match gone.await {
            Err(error) => self.failed("delete", &error),
            Ok(true) => self.found("delete", Verdict::Sound, "what is deleted is gone at once"),
            Ok(false) => self.found("delete", Verdict::Unsound, "what was deleted is still there"),
        }
    }

    async fn clean(&mut self) {
        let keys = match self.list("", None).await {
            Ok(keys) => again(|| self.store.delete(keys.clone())).await,
            Err(error) => Err(error),
        };
        if let Err(error) = keys {
            let prefix = self.prefix.clone();
            self.found(
                "clean-up",
                Verdict::Unknown,
                format!("objects below {prefix} were left behind: {error}"),
            );
        }
    }
}

/// What a race came to.
struct Race {
    winners: usize,
    /// Whether the object is one that a winner wrote, or if there is none, one who was not answered.
    kept: bool,
    unanswered: bool,
}

/// Bytes that depend on the number.
fn content(number: usize, size: usize) -> Bytes {
    let pattern = format!("ublk-ts {number:08} ");
    let mut bytes = pattern.repeat(size / pattern.len() + 1).into_bytes();
    bytes.truncate(size);
    bytes.into()
}

/// Tries three times, if it may pass.
async fn again<T>(mut ask: impl FnMut() -> super::Answer<T>) -> Result<T, StoreError> {
    for wait in [200, 1000] {
        match ask().await {
            Err(error) if error.kind == StoreErrorKind::Unavailable => {
                sleep(Duration::from_millis(wait)).await
            }
            result => return result,
        }
    }
    ask().await
}
