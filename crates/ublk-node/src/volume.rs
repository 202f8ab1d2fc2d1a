//! How it stands with the volumes of disks in object stores.

use napi_derive::napi;
use ublk_core::error::Result;

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

/// A snapshot of a volume.
#[napi(object)]
pub struct VolumeSnapshot {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub made: f64,
    /// Its size in bytes.
    pub size: f64,
}

/// The volume of a disk that is served.
pub trait ServedVolume: Send + Sync {
    /// How it stands; `None`: it is not served.
    fn standing(&self) -> Option<StoredVolume>;

    /// Its snapshots, the oldest first.
    fn snapshots(&self) -> Result<Vec<VolumeSnapshot>>;

    /// Removes one, unless it has clones. May block.
    fn remove_snapshot(&self, name: &str) -> Result<()>;
}
