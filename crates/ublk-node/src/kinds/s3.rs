//! A disk in an object store. Only the native part of the package `@ublk-ts/remote` can open it.

use super::bytes::Bytes;
use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use ublk_core::backend::{Backend, File};
use ublk_core::error::Result;

/// See the [module](self).
pub const KIND: Kind =
    Kind { name: "s3", below: Below::Anything, usual: Some(("s3", File::COPY_MODES)), read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[cfg_attr(not(feature = "remote"), expect(dead_code, reason = "it is refused"))]
struct Options {
    url: String,
    /// The directory of the local files.
    cache: PathBuf,
    /// How long the local file may become.
    cache_max: Option<Bytes>,
    /// Of a volume that is made if there is none.
    size: Option<Bytes>,
    /// A snapshot with which a volume begins that is made if there is none.
    from: Option<Origin>,
    /// An earlier state, which is only read.
    at: Option<At>,
    /// Seconds: how long what was stored can still be opened as it was then.
    retain: Option<u32>,
    /// A volume that was written to is refused.
    #[serde(default)]
    empty: bool,
    #[serde(default)]
    durable: Durable,
    /// Milliseconds: how long what was written waits for more, if nobody flushes.
    delay: Option<u32>,
    /// Milliseconds: how long a read waits for the store.
    timeout: Option<u32>,
    #[cfg(feature = "remote")]
    #[serde(skip, default = "ublk_remote::store::Settings::of_process")]
    settings: ublk_remote::store::Settings,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "remote"), expect(dead_code, reason = "it is refused"))]
struct Origin {
    url: String,
    snapshot: String,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
#[cfg_attr(not(feature = "remote"), expect(dead_code, reason = "it is refused"))]
enum At {
    Snapshot(String),
    /// Milliseconds since 1970, which are a large number as well.
    Time(Bytes),
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Durable {
    #[default]
    Object,
    Local,
}

#[cfg(not(feature = "remote"))]
impl Plan for Options {
    fn open(&self, _: &Opening) -> Result<Arc<dyn Backend>> {
        use ublk_core::error::{Error, ErrorKind};
        // TypeScript has asked before.
        Err(Error::new(ErrorKind::Unsupported, "a disk in an object store needs the package @ublk-ts/remote"))
    }
}

#[cfg(feature = "remote")]
impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        use std::time::Duration;
        use ublk_core::error::Error;
        use ublk_remote::{log, runtime, store};
        match (how.read_only, &self.at) {
            (true, None) => {
                return Err(Error::invalid("a disk in an object store cannot be read-only")
                    .hint("a snapshot of it can"));
            }
            (false, Some(_)) => {
                return Err(Error::invalid("an earlier state of a volume has to be read-only"));
            }
            _ => {}
        }
        let usual = log::Options::new(self.url.clone(), self.cache.clone());
        let time = |given: Option<u32>, usual| given.map_or(usual, |ms| Duration::from_millis(ms.into()));
        let bytes = |given: Option<Bytes>| given.map(|Bytes(bytes)| bytes);
        let options = log::Options {
            cache_size: bytes(self.cache_max).unwrap_or(usual.cache_size),
            size: bytes(self.size),
            from: self.from.clone().map(|Origin { url, snapshot }| log::CloneOf { url, snapshot }),
            at: self.at.clone().map(|at| match at {
                At::Snapshot(name) => log::At::Snapshot(name),
                At::Time(Bytes(ms)) => log::At::Time(std::time::UNIX_EPOCH + Duration::from_millis(ms)),
            }),
            retain: self.retain.map_or(usual.retain, |seconds| Duration::from_secs(seconds.into())),
            empty: self.empty,
            durable: match self.durable {
                Durable::Object => log::Durable::Object,
                Durable::Local => log::Durable::Local,
            },
            delay: time(self.delay, usual.delay),
            patience: time(self.timeout, usual.patience),
            ..usual
        };
        let cannot = |error| Error::system("cannot start the threads that speak with the store", &error);
        let (runtime, behind) = (runtime::runtime().map_err(cannot)?, runtime::behind().map_err(cannot)?);
        let settings = self.settings.clone();
        let opener: log::Opener = Arc::new(move |url| Ok(store::open(url, &settings)?));
        let disk = log::LogDisk::open(opener, options, runtime.handle().clone())?;
        let disk = Arc::new(disk.behind(behind.handle().clone()));
        // Of a disk with several, the first.
        let _ = how.contents.volume.set(Box::new(Served(Arc::downgrade(&disk))));
        Ok(disk)
    }
}

#[cfg(feature = "remote")]
struct Served(std::sync::Weak<ublk_remote::log::LogDisk>);

#[cfg(feature = "remote")]
impl Served {
    fn disk(&self) -> Result<Arc<ublk_remote::log::LogDisk>> {
        use ublk_core::error::{Error, ErrorKind};
        self.0.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the disk is not served"))
    }
}

#[cfg(feature = "remote")]
impl crate::volume::ServedVolume for Served {
    fn standing(&self) -> Option<crate::volume::StoredVolume> {
        Some(standing_of(&self.0.upgrade()?.standing()?))
    }

    fn snapshots(&self) -> Result<Vec<crate::volume::VolumeSnapshot>> {
        use crate::number::number;
        let all = self.disk()?.snapshots()?.into_iter();
        let told = |snapshot: ublk_remote::log::Snapshot| crate::volume::VolumeSnapshot {
            name: snapshot.name,
            made: number(snapshot.made),
            size: number(snapshot.size),
        };
        Ok(all.map(told).collect())
    }

    fn remove_snapshot(&self, name: &str) -> Result<()> {
        self.disk()?.remove_snapshot(name)
    }
}

#[cfg(feature = "remote")]
fn standing_of(now: &ublk_remote::log::Standing) -> crate::volume::StoredVolume {
    use crate::number::number;
    let requests = now.requests;
    crate::volume::StoredVolume {
        serving: !now.stopped,
        behind: number(now.behind),
        behind_seconds: now.behind_for.as_secs_f64(),
        written: number(now.written),
        sent: number(requests.bytes_up),
        received: number(requests.bytes_down),
        puts: number(requests.puts),
        gets: number(requests.gets),
        lists: number(requests.lists),
        deletes: number(requests.deletes),
        failures: number(requests.failures),
        stored: number(now.stored),
        live: number(now.live),
        cached: number(now.cached),
    }
}
