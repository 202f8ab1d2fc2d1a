//! How it stands with the volumes of disks in object stores.

use napi_derive::napi;

/// How it stands with the volume of such a disk.
#[napi(object)]
#[derive(Clone, Copy)]
pub struct StoredVolume {
    /// Whether it works: not if somebody else has opened the volume.
    pub serving: bool,
    /// Bytes that are not in the store yet, and for how many seconds the oldest of them have waited.
    pub behind: f64,
    pub behind_seconds: f64,
    /// Bytes that clients have written, and that were sent.
    pub written: f64,
    pub sent: f64,
    /// Bytes that came from the store.
    pub received: f64,
    /// Requests to the store, by what they do, and those that failed.
    pub puts: f64,
    pub gets: f64,
    pub lists: f64,
    pub deletes: f64,
    pub failures: f64,
    /// Bytes of the segments in the store, and those of them that are the disk's.
    pub stored: f64,
    pub live: f64,
    /// Bytes in the cache of what was read.
    pub cached: f64,
}

/// Tells how it stands.
pub type Tell = Box<dyn Fn() -> Option<StoredVolume> + Send + Sync>;
