//! Where objects are: a trait of five calls, so small that much can stand behind it.
//!
//! - [`open`]: the store that a URL names.
//! - [`probe`]: finds out whether a store does what a log needs.
//!
//! A call is one attempt: who calls tries again, and so can say what it waits for.

mod aws_profile;
mod directory;
mod failure;
mod object;
mod probe;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
mod url;

use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

pub use directory::Directory;
pub use object::Objects;
pub use probe::{Finding, Latency, Probe, ProbeOptions, Verdict, probe};
pub use url::{Address, Scheme};

/// What a call will come to. It makes progress only while it is polled; what was sent may take effect all the same if it
/// is dropped.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// What a conditional PUT came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is there, durably, and this call made it.
    Won,
    /// There was one with this key, which may be one that an earlier call made whose answer was lost.
    Exists,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key, as it was created.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// When it was created, by the store's clock.
    pub changed: Option<SystemTime>,
}

/// Objects that have a key, and never change once they are there.
pub trait Store: Send + Sync + 'static {
    /// For people: `s3://bucket/prefix`, never with credentials.
    fn name(&self) -> &str;

    /// Creates an object, unless there is one with that key: atomically, durably.
    fn create(&self, key: &str, body: Vec<Bytes>) -> Answer<Created>;

    /// All of it, or a range of bytes. A range beyond the end is cut; an empty one asks nothing.
    fn get(&self, key: &str, range: Option<Range<u64>>) -> Answer<Bytes>;

    /// In ascending order of keys, those that begin with the prefix and are above `after`; all pages.
    fn list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<Entry>>;

    /// Also succeeds if there is none.
    fn delete(&self, keys: Vec<String>) -> Answer<()>;

    /// How many requests of each kind were made, and bytes up and down, so far.
    fn counters(&self) -> StoreCounters;
}

/// What a call that failed means for who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no such object.
    NotFound,
    /// The store does not let us: credentials are missing, wrong, or not enough.
    Denied,
    /// It may pass: try again. Whether the call took effect is unknown.
    Unavailable,
    /// It will not pass.
    Refused,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// What it means.
    pub kind: StoreErrorKind,
    /// One line, without credentials.
    pub message: String,
}

impl StoreError {
    /// An error with a message, of which only the first line is taken.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { kind, message: message.lines().next().unwrap_or_default().trim().to_owned() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for ublk_core::Error {
    fn from(error: StoreError) -> Self {
        Self::new(ublk_core::ErrorKind::Backend, error.message)
    }
}

/// What a store was asked so far. Requests are what stores take money for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Requests that create.
    pub puts: u64,
    /// Requests that read.
    pub gets: u64,
    /// Requests for a page of a list.
    pub lists: u64,
    /// Requests that delete.
    pub deletes: u64,
    /// How many of all these failed, in any way but for want of an object, or for there being one.
    pub failures: u64,
    /// Bytes of objects that were sent.
    pub bytes_up: u64,
    /// Bytes of objects that were received.
    pub bytes_down: u64,
}

/// [`StoreCounters`] while they count.
#[derive(Debug, Default)]
struct Counting {
    puts: AtomicU64,
    gets: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    failures: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counting {
    fn put(&self, bytes: u64) {
        self.puts.fetch_add(1, Relaxed);
        self.bytes_up.fetch_add(bytes, Relaxed);
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    fn read(&self) -> StoreCounters {
        StoreCounters {
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
            lists: self.lists.load(Relaxed),
            deletes: self.deletes.load(Relaxed),
            failures: self.failures.load(Relaxed),
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
        }
    }
}

/// How a store is opened.
#[derive(Clone)]
pub struct Settings {
    /// The variables of the environment in which credentials and endpoints are looked for.
    pub environment: Vec<(String, String)>,
    /// After how long without an answer a request counts as lost; and one second longer for each 256 KiB that it moves.
    pub timeout: Duration,
}

impl Settings {
    /// Those of this process. Node changes the environment on its main thread only, so that is where to call this.
    pub fn of_process() -> Self {
        let known = |name: &str| {
            let clouds = ["AWS_", "AZURE_", "GOOGLE_", "IDENTITY_", "MSI_"];
            clouds.iter().any(|cloud| name.starts_with(cloud)) || name == "HOME"
        };
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| known(name))?;
            Some((name, value.into_string().ok()?))
        });
        Self { environment: variables.collect(), ..Self::default() }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

impl Default for Settings {
    /// Of an empty environment.
    fn default() -> Self {
        Self { environment: Vec::new(), timeout: Duration::from_secs(30) }
    }
}

/// Secrets stay secret.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// The store that a URL names: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
/// Asks no server.
pub fn open(url: &str, settings: &Settings) -> Result<Arc<dyn Store>, StoreError> {
    let address = Address::parse(url)?;
    Ok(match address.scheme {
        Scheme::File => Arc::new(Directory::open(&address)?),
        _ => Arc::new(Objects::open(&address, settings)?),
    })
}
