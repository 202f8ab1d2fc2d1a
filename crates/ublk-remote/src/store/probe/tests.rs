use super::*;
use crate::store::simulated::{Bucket, Weather};
use crate::store::{Entry, StoreCounters};
use std::ops::Range;

fn findings(probe: &Probe, verdict: Verdict) -> Vec<&'static str> {
    probe.findings.iter().filter(|finding| finding.verdict == verdict).map(|finding| finding.name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_good_store_is_sound_and_nothing_is_left_behind() {
    let bucket = Bucket::new(1, Weather { page: 20, ..Weather::calm() });
    bucket.put("volume.json", Bytes::new());
    let store: Arc<dyn Store> = bucket.client();
    let probe = probe(&store, ProbeOptions::default()).await.unwrap();
    assert_eq!(probe.verdict, Verdict::Sound, "{probe:?}");
    let all = ["create-existing", "conditional-put", "read-after-write", "range", "list", "delete"];
    assert_eq!(findings(&probe, Verdict::Sound), all);
    assert_eq!(bucket.contents().into_keys().collect::<Vec<_>>(), ["volume.json"]);
    let ms = |duration: Duration| duration.as_millis();
    assert!((4..80).contains(&ms(probe.put.p50)) && probe.put.p50 <= probe.put.p99, "{probe:?}");
    assert_eq!((probe.put.samples, probe.get.samples), (64, 64));
    assert!(probe.throughput.0 > 0 && probe.advice[0].contains("a flush takes about one PUT"), "{probe:?}");
    assert_eq!(probe.requests.puts, 1 + 1 + 10 * 16 + 64 + 4);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lies_is_found_out() {
    for seed in 0..20 {
        let store: Arc<dyn Store> = Bucket::that_lies(seed, Weather::calm()).client();
        let probe =
            probe(&store, ProbeOptions { samples: 4, large: 0, ..ProbeOptions::default() }).await.unwrap();
        assert_eq!(probe.verdict, Verdict::Unsound, "seed {seed}");
        assert_eq!(findings(&probe, Verdict::Unsound), ["conditional-put"]);
        assert_eq!(probe.advice, ["put no disk here: what it acknowledges could be lost without an error"]);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_answers_are_not_taken_for_lies() {
    for seed in 0..50 {
        let weather = Weather { refused: 0.05, lost: 0.05, ..Weather::calm() };
        let store: Arc<dyn Store> = Bucket::new(seed, weather).client();
        let options = ProbeOptions { samples: 16, large: 0, ..ProbeOptions::default() };
        let Ok(probe) = probe(&store, options).await else { continue };
        assert_eq!(findings(&probe, Verdict::Unsound), [""; 0], "seed {seed}: {probe:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_store_there_is_an_error() {
    let bucket = Bucket::new(1, Weather { refused: 1.0, ..Weather::calm() });
    let store: Arc<dyn Store> = bucket.client();
    assert_eq!(probe(&store, ProbeOptions::default()).await.unwrap_err().kind, StoreErrorKind::Unavailable);
}

/// A store with one thing wrong.
struct Wrong {
    inner: Arc<dyn Store>,
    how: &'static str,
}

impl Store for Wrong {
    fn name(&self) -> &str {
        self.how
    }

    fn create(&self, key: &str, body: Vec<Bytes>) -> crate::store::Answer<Created> {
        let (delete, create) = (self.inner.delete(vec![key.to_owned()]), self.inner.create(key, body));
        let how = self.how;
        Box::pin(async move {
            if how == "create-existing" {
                delete.await?;
            }
            if how == "refuses" {
                create.await?;
                return Err(StoreError::new(StoreErrorKind::Refused, "501 NotImplemented"));
            }
            create.await
        })
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> crate::store::Answer<Bytes> {
        let stale = self.how == "read-after-write" && key.contains("small-0003");
        let key = if stale { "none" } else { key };
        self.inner.get(key, range.filter(|_| self.how != "range"))
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> crate::store::Answer<Vec<Entry>> {
        let listed = self.inner.list(prefix, after);
        let late = self.how == "list" && prefix.contains("small");
        Box::pin(async move {
            let mut entries = listed.await?;
            if late {
                entries.pop();
            }
            Ok(entries)
        })
    }

    fn delete(&self, keys: Vec<String>) -> crate::store::Answer<()> {
        let kept = self.how == "delete";
        let deleted = self.inner.delete(keys);
        Box::pin(async move { if kept { Ok(()) } else { deleted.await } })
    }

    fn counters(&self) -> StoreCounters {
        self.inner.counters()
    }
}

#[tokio::test(start_paused = true)]
async fn each_thing_that_is_wrong_is_named() {
    for how in ["create-existing", "read-after-write", "range", "list", "delete"] {
        let store: Arc<dyn Store> = Arc::new(Wrong { inner: Bucket::new(1, Weather::calm()).client(), how });
        let options = ProbeOptions { rounds: 2, samples: 8, large: 0, ..ProbeOptions::default() };
        let probe = probe(&store, options).await.unwrap();
        assert_eq!(probe.verdict, Verdict::Unsound, "{how}");
        assert!(findings(&probe, Verdict::Unsound).contains(&how), "{how}: {probe:?}");
    }
    let store: Arc<dyn Store> =
        Arc::new(Wrong { inner: Bucket::new(1, Weather::calm()).client(), how: "refuses" });
    let error = probe(&store, ProbeOptions::default()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (StoreErrorKind::Refused, "501 NotImplemented"));
}
