//! What was found out about a store.

use crate::store::StoreCounters;
use std::time::Duration;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOptions {
    /// How many times several creators race for a key.
    pub rounds: usize,
    /// How many race.
    pub creators: usize,
    /// How many small objects are written and read, for latencies.
    pub samples: usize,
    /// How large an object is that is written and read for the speed, in bytes; 0 for none.
    pub large: usize,
}

impl Default for ProbeOptions {
    /// Some 400 requests, and 20 MiB each way.
    fn default() -> Self {
        Self { rounds: 10, creators: 16, samples: 64, large: 4 << 20 }
    }
}

/// What a probe concludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A disk may live here.
    Sound,
    /// It may not.
    Unsound,
    /// Too much failed to tell.
    Unknown,
}

impl Verdict {
    /// The word for it in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Unsound => "unsound",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: a word.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// The same as a sentence.
    pub text: String,
}

/// What requests of a kind took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many were measured, one after the other.
    pub samples: usize,
    /// Half took no longer.
    pub p50: Duration,
    /// Of a hundred, one took longer.
    pub p99: Duration,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The store, for people.
    pub store: String,
    /// The worst of the findings.
    pub verdict: Verdict,
    /// All that was looked at.
    pub findings: Vec<Finding>,
    /// Of creating 4 KiB.
    pub put: Latency,
    /// Of reading them.
    pub get: Latency,
    /// Bytes a second of large objects, four at a time: up and down; 0 if not measured.
    pub throughput: (u64, u64),
    /// What to do.
    pub advice: Vec<String>,
    /// What all this asked of the store.
    pub requests: StoreCounters,
}

/// Of these times.
pub(super) fn latency(mut taken: Vec<Duration>) -> Latency {
    taken.sort_unstable();
    let at = |percent: usize| taken.get((taken.len() * percent / 100).min(taken.len().saturating_sub(1)));
    let of = |percent| at(percent).copied().unwrap_or_default();
    Latency { samples: taken.len(), p50: of(50), p99: of(99) }
}

/// What the owner of a disk there should know.
pub(super) fn advice(verdict: Verdict, put: Latency, throughput: (u64, u64)) -> Vec<String> {
    let mut advice = Vec::new();
    if verdict == Verdict::Unsound {
        advice.push("put no disk here: what it acknowledges could be lost without an error".to_owned());
        return advice;
    }
    if verdict == Verdict::Unknown {
        advice.push("look at what failed, and probe again".to_owned());
    }
    if put.samples > 0 {
        let ms = put.p50.as_secs_f64() * 1000.0;
        advice.push(format!(
            "a flush takes about one PUT, {ms:.1} ms here: programs that flush after each write do {:.0} a second",
            1000.0 / ms.max(0.001)
        ));
        if put.p50 > Duration::from_millis(30) {
            advice.push(
                "where that is too slow, durable: 'local' answers flushes from this machine's cache"
                    .to_owned(),
            );
        }
    }
    if throughput.0 > 0 && throughput.0 < 10_000_000 {
        let megabytes = throughput.0 as f64 / 1e6;
        advice.push(format!(
            "it takes {megabytes:.1} MB a second: faster writes wait once the local log is full"
        ));
    }
    advice
}

/// What was counted since then.
pub(super) fn since(now: StoreCounters, before: StoreCounters) -> StoreCounters {
    StoreCounters {
        puts: now.puts - before.puts,
        gets: now.gets - before.gets,
        lists: now.lists - before.lists,
        deletes: now.deletes - before.deletes,
        failures: now.failures - before.failures,
        bytes_up: now.bytes_up - before.bytes_up,
        bytes_down: now.bytes_down - before.bytes_down,
    }
}
