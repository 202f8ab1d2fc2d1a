//! What speaks with object stores, for JavaScript. It exports the same without the feature `remote`, so that there is one set of
//! declarations; only [`has_remote`] tells the difference, and what needs the feature is refused.

use crate::task::promise;
use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;

/// Whether this native part speaks with object stores.
#[napi]
pub fn has_remote() -> bool {
    cfg!(feature = "remote")
}

/// One thing that was looked at in a store.
#[napi(object)]
pub struct StoreFinding {
    /// What: a word.
    pub name: String,
    /// `sound`, `unsound` or `unknown`.
    pub verdict: String,
    /// The same as a sentence.
    pub text: String,
}

/// What requests of a kind took, in milliseconds.
#[napi(object)]
pub struct StoreLatency {
    /// How many were measured.
    pub samples: u32,
    /// Half took no longer.
    pub p50: f64,
    /// Of a hundred, one took longer.
    pub p99: f64,
}

/// What a probe asked of a store.
#[napi(object)]
pub struct StoreRequests {
    /// Requests that create.
    pub puts: f64,
    /// Requests that read.
    pub gets: f64,
    /// Requests for a page of a list.
    pub lists: f64,
    /// Requests that delete.
    pub deletes: f64,
    /// How many of these failed.
    pub failures: f64,
    /// Bytes of objects that were sent.
    pub bytes_up: f64,
    /// Bytes of objects that were received.
    pub bytes_down: f64,
}

/// What was found of a store.
#[napi(object)]
pub struct StoreProbe {
    /// Its address, without credentials.
    pub store: String,
    /// The worst of the findings.
    pub verdict: String,
    /// All that was looked at.
    pub findings: Vec<StoreFinding>,
    /// Of creating 4 KiB.
    pub put: StoreLatency,
    /// Of reading them.
    pub get: StoreLatency,
    /// Bytes a second, of four large objects at a time.
    pub bytes_per_second_up: f64,
    /// Bytes a second, of four large objects at a time.
    pub bytes_per_second_down: f64,
    /// What to do.
    pub advice: Vec<String>,
    /// What all this asked of the store.
    pub requests: StoreRequests,
}

/// Finds out whether a store does what a disk needs. Credentials come from the environment as it is now.
#[napi(ts_return_type = "Promise<StoreProbe>")]
pub fn probe_store<'env>(env: &'env Env, url: String) -> Result<Object<'env>> {
    let work = probing(url);
    promise(env, work, |_, probe| Ok(probe))
}

#[cfg(feature = "remote")]
fn probing(url: String) -> impl FnOnce() -> ublk_core::Result<StoreProbe> + Send + 'static {
    use crate::number::number;
    use ublk_remote::store::{Address, Latency, Probe, ProbeOptions, Settings, open, probe};

    fn latency(latency: Latency) -> StoreLatency {
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        let samples = u32::try_from(latency.samples).unwrap_or(u32::MAX);
        StoreLatency { samples, p50: ms(latency.p50), p99: ms(latency.p99) }
    }
    // On JavaScript's thread, which is the one that changes it.
    let settings = Settings::of_process();
    move || {
        Address::parse(&url).map_err(|error| ublk_core::Error::invalid(error.message))?;
        let store = open(&url, &settings)?;
        let ran = ublk_remote::runtime::block_on(async move { probe(&store, ProbeOptions::default()).await });
        let found =
            ran.map_err(|error| ublk_core::Error::system("cannot speak with object stores", &error))?;
        let Probe { store, verdict, findings, put, get, throughput, advice, requests } = found?;
        let findings = findings.into_iter().map(|finding| StoreFinding {
            name: finding.name.into(),
            verdict: finding.verdict.name().into(),
            text: finding.text,
        });
        Ok(StoreProbe {
            store,
            verdict: verdict.name().into(),
            findings: findings.collect(),
            put: latency(put),
            get: latency(get),
            bytes_per_second_up: number(throughput.0),
            bytes_per_second_down: number(throughput.1),
            advice,
            requests: StoreRequests {
                puts: number(requests.puts),
                gets: number(requests.gets),
                lists: number(requests.lists),
                deletes: number(requests.deletes),
                failures: number(requests.failures),
                bytes_up: number(requests.bytes_up),
                bytes_down: number(requests.bytes_down),
            },
        })
    }
}

#[cfg(not(feature = "remote"))]
fn probing(_: String) -> impl FnOnce() -> ublk_core::Result<StoreProbe> + Send + 'static {
    || {
        let message = "this native part does not speak with object stores";
        Err(ublk_core::Error::new(ublk_core::ErrorKind::Unsupported, message))
    }
}
