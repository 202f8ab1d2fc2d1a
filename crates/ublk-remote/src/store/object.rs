//! Amazon S3, Google Cloud Storage and Azure Blob Storage, by the crate `object_store`. Its own repeats are off.

use super::aws_profile::Profiles;
use super::failure::{Answered, Lost, Meaning, deepest, meaning, told};
use super::url::checked;
use super::{
    Address, Answer, Counting, Created, Entry, Scheme, Settings, Store, StoreCounters, StoreError,
    StoreErrorKind,
};
use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// 256 KiB may take up to 64 seconds.
const MOST_SLOW: u32 = 6;

/// Objects below a prefix of a bucket.
pub struct Objects {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    store: Arc<dyn ObjectStore>,
    lister: Arc<dyn PaginatedListStore>,
    timeout: Duration,
    counting: Counting,
    /// What must not be repeated if a server does.
    secrets: Vec<String>,
    /// How often the time for the bytes of a request is doubled: the way to the server may be narrow.
    slowness: AtomicU32,
    /// Whether any request was answered: then what is missing of credentials may come back.
    worked: AtomicBool,
}

impl Objects {
    /// Reads credentials, and asks no server.
    pub fn open(address: &Address, settings: &Settings) -> Result<Self, StoreError> {
        use_ring();
        let (store, lister) = match address.scheme {
            Scheme::S3 => both(s3(address, settings)?),
            Scheme::Gs => both(gs(address, settings)?),
            Scheme::Az => both(az(address, settings)?),
            Scheme::File => return Err(refused("a directory is no bucket")),
        };
        let secret = |name: &str| ["KEY", "SECRET", "TOKEN", "SAS"].iter().any(|part| name.contains(part));
        let secrets = settings.environment.iter().filter(|(name, value)| secret(name) && value.len() >= 8);
        let shared = Shared {
            address: address.clone(),
            store,
            lister,
            timeout: settings.timeout,
            counting: Counting::default(),
            secrets: secrets.map(|(_, value)| value.clone()).collect(),
            slowness: AtomicU32::new(0),
            worked: AtomicBool::new(false),
        };
        Ok(Self { name: address.to_string(), shared: Arc::new(shared) })
    }
}

/// One store, behind two traits.
type Both = (Arc<dyn ObjectStore>, Arc<dyn PaginatedListStore>);

fn both(store: impl ObjectStore + PaginatedListStore) -> Both {
    let store = Arc::new(store);
    (store.clone(), store)
}

/// The cryptography of TLS. Nothing else in this library uses rustls.
fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default(); // fails if it was installed before
}

fn refused(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, message)
}

fn s3(address: &Address, settings: &Settings) -> Result<impl ObjectStore + PaginatedListStore, StoreError> {
    let profiles = Profiles::of(settings);
    let profile = profiles.read()?;
    let from_profile = |name: &str| profile.get(name).map(String::as_str);
    let first = |names: &[&str]| names.iter().find_map(|name| settings.variable(name));
    let endpoint = first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
    let endpoint = endpoint.or(from_profile("endpoint_url"));
    let region = first(&["AWS_REGION", "AWS_DEFAULT_REGION"]).or(from_profile("region"));

    let mut builder = AmazonS3Builder::new().with_client_options(options(settings, endpoint)?);
    for (name, value) in variables(settings, "AWS_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let others = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"];
    let named = first(&others).is_some();
    if let Some(credentials) = if named { None } else { profiles.credentials(&profile)? } {
        builder = builder.with_credentials(Arc::new(credentials));
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let builder = builder.with_bucket_name(&address.bucket).with_retry(once()).with_http_connector(Watching);
    // Not every store can delete several in one request, nor is it told what became of each.
    builder.with_config(AmazonS3ConfigKey::DisableBulkDelete, "true").build().map_err(misconfigured)
}

fn gs(address: &Address, settings: &Settings) -> Result<impl ObjectStore + PaginatedListStore, StoreError> {
    let mut builder = GoogleCloudStorageBuilder::new().with_client_options(options(settings, None)?);
    for (name, value) in variables(settings, "GOOGLE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_bucket_name(&address.bucket).with_retry(once()).with_http_connector(Watching);
    builder.build().map_err(misconfigured)
}

fn az(address: &Address, settings: &Settings) -> Result<impl ObjectStore + PaginatedListStore, StoreError> {
    let endpoint = settings.variable("AZURE_STORAGE_ENDPOINT").or(settings.variable("AZURE_ENDPOINT"));
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(options(settings, endpoint)?);
    for (name, value) in variables(settings, "AZURE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder =
        builder.with_container_name(&address.bucket).with_retry(once()).with_http_connector(Watching);
    builder.build().map_err(misconfigured)
}

/// Those that begin so, in lower case, with their values.
fn variables<'a>(settings: &'a Settings, begin: &str) -> impl Iterator<Item = (String, &'a String)> {
    let ours =
        settings.environment.iter().filter(move |(name, value)| name.starts_with(begin) && !value.is_empty());
    ours.map(|(name, value)| (name.to_ascii_lowercase(), value))
}

/// Refuses plain HTTP, but to this machine, or if somebody said that it is all right.
fn may_be_used(endpoint: &str, settings: &Settings) -> Result<(), StoreError> {
    if endpoint.starts_with("https://") {
        return Ok(());
    }
    let Some(rest) = endpoint.strip_prefix("http://") else {
        return Err(refused("the endpoint of an object store begins with https:// or http://"));
    };
    let host = rest.split('/').next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
    let here = ["127.", "localhost", "[::1]"].iter().any(|name| host.starts_with(name));
    let allowed = ["AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP"];
    if here || allowed.iter().any(|name| settings.variable(name) == Some("true")) {
        return Ok(());
    }
    Err(refused(format!(
        "the endpoint {host} is http://, so that the disk's data could be read on the way: AWS_ALLOW_HTTP=true allows it"
    )))
}

fn options(settings: &Settings, endpoint: Option<&str>) -> Result<ClientOptions, StoreError> {
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    if let Some(endpoint) = endpoint {
        may_be_used(endpoint, settings)?;
    }
    let mut options = ClientOptions::new()
        .with_allow_http(plain)
        .with_timeout_disabled() // ours depends on the size, and covers credentials as well
        .with_connect_timeout(settings.timeout.min(Duration::from_secs(5)))
        // Servers close connections that are idle; a request on one that is just being closed is lost.
        .with_pool_idle_timeout(Duration::from_secs(15));
    if let Some(path) = settings.variable("AWS_CA_BUNDLE") {
        let unusable = |why: String| refused(format!("AWS_CA_BUNDLE {path}: {why}"));
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(deepest(&error)))?;
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn misconfigured(error: object_store::Error) -> StoreError {
    refused(deepest(&error))
}

/// Makes HTTP clients whose errors are worded as those of the project.
#[derive(Debug)]
struct Watching;

impl HttpConnector for Watching {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Watched(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Watched(HttpClient);

#[async_trait::async_trait]
impl HttpService for Watched {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default().to_owned();
        let response = self.0.execute(request).await.map_err(|error| {
            let lost = Lost { host: host.clone(), text: deepest(&error) };
            HttpError::new(error.kind(), lost)
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let region = response.headers().get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
        let region = region.filter(|_| matches!(status, 301 | 307)).map(str::to_owned);
        let body = response.into_body().bytes().await.unwrap_or_default();
        Err(HttpError::new(HttpErrorKind::Unknown, Answered::new(host, status, &body, region)))
    }
}

/// Whether machines in a cloud get their credentials there.
fn is_metadata(host: &str) -> bool {
    host.starts_with("169.254.") || host == "metadata.google.internal"
}

impl Shared {
    /// One request: bounded in time, counted if it fails, its error told.
    async fn ask<T>(
        &self,
        doing: &str,
        moves: u64,
        request: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, Failed> {
        let slowness = self.slowness.load(Relaxed);
        let limit = self.timeout + Duration::from_secs((moves >> 18) << slowness);
        let began = tokio::time::Instant::now();
        let result = match tokio::time::timeout(limit, request).await {
            Ok(result) => {
                if slowness > 0 && moves >> 18 > 0 && began.elapsed() < self.timeout {
                    self.slowness.store(slowness - 1, Relaxed);
                }
                result
            }
            Err(_) => {
                if moves >> 18 > 0 {
                    self.slowness.store((slowness + 1).min(MOST_SLOW), Relaxed);
                }
                self.counting.failed();
                let message = format!("{doing}: no answer within {} s", limit.as_secs_f64());
                return Err(Failed {
                    status: None,
                    error: StoreError::new(StoreErrorKind::Unavailable, message),
                });
            }
        };
        match result {
            Ok(value) => {
                self.worked.store(true, Relaxed);
                Ok(value)
            }
            Err(error) => {
                let meaning = self.meaning(&error);
                let expected = matches!(meaning.status, Some(304 | 404 | 412 | 416));
                if !expected {
                    self.counting.failed();
                }
                Err(Failed { status: meaning.status, error: told(doing, &meaning, &self.secrets) })
            }
        }
    }

    fn meaning(&self, error: &object_store::Error) -> Meaning {
        let mut meaning = meaning(error);
        if meaning.host.as_deref().is_some_and(is_metadata) && !self.worked.load(Relaxed) {
            let places = match self.address.scheme {
                Scheme::S3 => {
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, there is no profile in ~/.aws"
                }
                Scheme::Gs => "GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud has left none",
                _ => "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN and AZURE_CLIENT_ID are not set",
            };
            meaning.kind = StoreErrorKind::Denied;
            meaning.text =
                format!("no credentials: {places}, and this machine's metadata service gives none");
        }
        meaning
    }

    /// For an operation on a key: "PUT s3://bucket/prefix/key".
    fn doing(&self, verb: &str, key: &str) -> String {
        format!("{verb} {}/{key}", self.address)
    }

    async fn create(&self, key: &str, body: Vec<Bytes>) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let payload = PutPayload::from_iter(body);
        let length = payload.content_length() as u64;
        self.counting.put(length);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let request = self.store.put_opts(&path, payload, options);
        match self.ask(&self.doing("PUT", key), length, request).await {
            Ok(_) => Ok(Created::Won),
            // Azure says 409 for it, with this code or without.
            Err(Failed { status: Some(409), .. }) if self.address.scheme == Scheme::Az => Ok(Created::Exists),
            Err(Failed { status: Some(304 | 412), .. }) => Ok(Created::Exists),
            Err(failed) => Err(failed.error),
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let moves = range.as_ref().map_or(8 << 20, |range| range.end.saturating_sub(range.start));
        if moves == 0 {
            return Ok(Bytes::new());
        }
        self.counting.gets.fetch_add(1, Relaxed);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let request = async { self.store.get_opts(&path, options).await?.bytes().await };
        match self.ask(&self.doing("GET", key), moves, request).await {
            Ok(bytes) => {
                self.counting.bytes_down.fetch_add(bytes.len() as u64, Relaxed);
                Ok(bytes)
            }
            Err(Failed { status: Some(416), .. }) => Ok(Bytes::new()), // it begins beyond the end
            Err(failed) => Err(failed.error),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Entry>, StoreError> {
        let whole = self.address.full(prefix);
        let mut entries = Vec::new();
        let mut page_token = None;
        loop {
            // A token says where to go on.
            let offset = after.filter(|_| page_token.is_none()).map(|after| self.address.full(after));
            let options = PaginatedListOptions { offset, page_token, ..PaginatedListOptions::default() };
            self.counting.lists.fetch_add(1, Relaxed);
            let request = self.lister.list_paginated(Some(&whole), options);
            let page = self.ask(&self.doing("LIST", prefix), 0, request).await.map_err(|failed| {
                match failed.status {
                    // A list of nothing is empty: this is about the bucket.
                    Some(404) => StoreError { kind: StoreErrorKind::Refused, ..failed.error },
                    _ => failed.error,
                }
            })?;
            let skip = self.address.full("").len();
            let found = page.result.objects.into_iter().filter_map(|object| {
                let key = object.location.as_ref().get(skip..)?.to_owned();
                let wanted = key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after);
                wanted.then(|| Entry { key, size: object.size, changed: Some(object.last_modified.into()) })
            });
            entries.extend(found);
            page_token = page.page_token;
            if page_token.is_none() {
                break;
            }
        }
        // Directory buckets of S3 have no order; and a page that is asked for again may come twice.
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        entries.dedup_by(|a, b| a.key == b.key);
        Ok(entries)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.counting.deletes.fetch_add(1, Relaxed);
        match self.ask(&self.doing("DELETE", key), 0, self.store.delete(&path)).await {
            Ok(())
            | Err(Failed { status: Some(404), error: StoreError { kind: StoreErrorKind::NotFound, .. } }) => {
                Ok(())
            }
            Err(failed) => Err(failed.error),
        }
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let whole = self.address.full(checked(key)?);
        Path::parse(&whole).map_err(|error| refused(deepest(&error)))
    }
}

struct Failed {
    status: Option<u16>,
    error: StoreError,
}

/// How many objects are deleted at a time.
const DELETED_AT_ONCE: usize = 8;

impl Store for Objects {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, key: &str, body: Vec<Bytes>) -> Answer<Created> {
        let (shared, key) = (self.shared.clone(), key.to_owned());
        Box::pin(async move { shared.create(&key, body).await })
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Answer<Bytes> {
        let (shared, key) = (self.shared.clone(), key.to_owned());
        Box::pin(async move { shared.get(&key, range).await })
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<Entry>> {
        let (shared, prefix, after) = (self.shared.clone(), prefix.to_owned(), after.map(str::to_owned));
        Box::pin(async move { shared.list(&prefix, after.as_deref()).await })
    }

    fn delete(&self, keys: Vec<String>) -> Answer<()> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let mut keys = keys.into_iter();
            let mut running = tokio::task::JoinSet::new();
            let mut result = Ok(());
            loop {
                while running.len() < DELETED_AT_ONCE && result.is_ok() {
                    let Some(key) = keys.next() else { break };
                    let shared = shared.clone();
                    running.spawn(async move { shared.delete(&key).await });
                }
                let Some(ended) = running.join_next().await else { return result };
                let ended = ended.unwrap_or_else(|_| Err(refused("deleting ended with a panic")));
                result = result.and(ended);
            }
        })
    }

    fn counters(&self) -> StoreCounters {
        self.shared.counting.read()
    }
}
