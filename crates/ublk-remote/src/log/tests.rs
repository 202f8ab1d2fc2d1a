//! The log against a simulated store, in all weathers: what a lost machine leaves is a prefix of what was written, with all that
//! was flushed; what a killed server leaves is everything; and there is one writer.

use super::collect;
use super::disk::LogDisk;
use super::format::{BLOCK, Kind};
use super::model::*;
use super::volume::Durable;
use crate::store::Store;
use crate::store::simulated::{Bucket, Weather};
use std::path::Path;
use std::time::Duration;

async fn opened(bucket: &Bucket, cache: &Path, durable: Durable) -> Server {
    loop {
        match Server::open(bucket, cache, durable).await {
            Ok(server) => return server,
            // In a storm, opening gives up after a while.
            Err(error) => assert!(error.message.contains("simulated"), "{}", error.message),
        }
    }
}

#[test]
fn a_lost_machine_leaves_a_prefix_with_all_that_was_flushed() {
    run(|seed| async move {
        let mut random = Random(seed);
        let weather = if random.below(3) == 0 { Weather::calm() } else { Weather::stormy() };
        let bucket = Bucket::new(seed, weather);
        let mut history = History::new(empty(), 0);
        for life in 0..3 {
            let cache = caches();
            let server = opened(&bucket, cache.path(), Durable::Object).await;
            let found = server.read_all().await;
            history.check_prefix(&found, &format!("life {life}"));
            history = History::new(found, history.stamps);
            let turns = random.below(250);
            work(&server, &mut history, &mut random, turns).await;
            assert_eq!(
                server.read_all().await,
                history.after(history.done.len()),
                "life {life}: as it was written"
            );
            server.kill();
        }
    });
}

#[test]
fn a_killed_server_leaves_everything() {
    run(|seed| async move {
        let mut random = Random(seed);
        let bucket =
            Bucket::new(seed, if random.below(3) == 0 { Weather::calm() } else { Weather::stormy() });
        let (cache, mut history) = (caches(), History::new(empty(), 0));
        for life in 0..4 {
            let durable = if random.below(2) == 0 { Durable::Object } else { Durable::Local };
            let server = opened(&bucket, cache.path(), durable).await;
            let found = server.read_all().await;
            assert_eq!(found, history.after(history.done.len()), "life {life}");
            history = History::new(found, history.stamps);
            let turns = random.below(250);
            work(&server, &mut history, &mut random, turns).await;
            if random.below(3) == 0 {
                let done = LogDisk::finish(&server.volume).await;
                assert!(done.is_ok(), "{done:?}");
                if random.below(2) == 0 {
                    server.volume.end();
                    server.volume.close_files().unwrap();
                }
            }
            server.kill();
        }
    });
}

#[test]
fn a_power_failure_leaves_what_was_flushed_here() {
    run(|seed| async move {
        let mut random = Random(seed);
        let bucket = Bucket::new(seed, Weather::stormy());
        let (cache, mut history) = (caches(), History::new(empty(), 0));
        for life in 0..4 {
            let server = opened(&bucket, cache.path(), Durable::Local).await;
            let found = server.read_all().await;
            history.check_prefix(&found, &format!("life {life}"));
            history = History::new(found, history.stamps);
            let turns = random.below(200);
            work(&server, &mut history, &mut random, turns).await;
            server.kill();
            super::notes::boot(&cache.path().join("notes"));
        }
    });
}

#[test]
fn who_opens_a_volume_is_its_only_writer_and_who_had_it_learns_that() {
    run(|seed| async move {
        let mut random = Random(seed);
        let bucket = Bucket::new(seed, Weather::stormy());
        let (one_cache, two_cache) = (caches(), caches());
        let one = opened(&bucket, one_cache.path(), Durable::Object).await;
        let mut of_one = History::new(empty(), 0);
        let turns = random.below(150);
        work(&one, &mut of_one, &mut random, turns).await;
        one.client.freeze(Duration::from_secs(60 + random.below(60)));
        let mut lost = of_one.clone();
        let turns = random.below(40);
        work(&one, &mut lost, &mut random, turns).await;
        let two = opened(&bucket, two_cache.path(), Durable::Object).await;
        let found = two.read_all().await;
        lost.check_prefix(&found, "the second sees what the first has flushed");
        let mut of_two = History::new(found, 1 << 32);
        let turns = 150 + random.below(150);
        work(&two, &mut of_two, &mut random, turns).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        // What the first writes now is nobody's.
        let writing = one.begin(0, 1).await;
        if let Ok(writing) = writing {
            one.put(&writing, 99);
            one.volume.commit(&[(writing, Kind::Data)]).unwrap();
        }
        assert!(matches!(one.flush().await, Ok(result) if result < 0), "the first is told");
        assert_eq!(one.volume.find(0, 1, &mut Vec::new()), Err(libc::EIO), "it does not tell what it had");
        assert!(one.complaints.lock().unwrap().iter().any(|line| line.contains("was opened by")));
        assert!(two.flush().await.is_ok_and(|result| result >= 0));
        of_two.flushed = of_two.commits;
        let all = of_two.after(of_two.done.len());
        assert_eq!(two.read_all().await, all);
        two.kill();
        one.kill();
        let three = opened(&bucket, caches().path(), Durable::Object).await;
        assert_eq!(three.read_all().await, all);
        // The first has something that was never stored, and says so.
        let refused = loop {
            match Server::open(&bucket, one_cache.path(), Durable::Object).await {
                Err(error) if error.message.contains("simulated") => {}
                done => break done,
            }
        };
        let unstored = lost.done.len() > of_one.done.len() || of_one.flushed < of_one.commits;
        if let Err(error) = refused {
            assert!(error.message.contains("never stored") && unstored, "{}", error.message);
        }
    });
}

#[test]
fn an_idle_volume_makes_no_request_and_little_is_kept() {
    run(|seed| async move {
        let mut random = Random(seed);
        let bucket = Bucket::new(seed, Weather::calm());
        let cache = caches();
        let server = opened(&bucket, cache.path(), Durable::Local).await;
        let mut history = History::new(empty(), 0);
        work(&server, &mut history, &mut random, 1500).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let before = server.client.counters();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(server.client.counters(), before, "{:?}", server.complaints.lock().unwrap());
        let kept: u64 = bucket.contents().values().map(|body| body.len() as u64).sum();
        let written: u64 = history.done.iter().map(|done| u64::from(done.blocks) * BLOCK).sum();
        assert!(kept < 4 * BLOCKS * BLOCK, "{kept} bytes of {written} are kept");
        assert_eq!(server.read_all().await, history.after(history.done.len()));
    });
}

#[test]
fn a_segment_that_was_empty_when_the_map_was_stored_counts() {
    run(|seed| async move {
        let bucket = Bucket::new(seed, Weather::calm());
        let server = opened(&bucket, caches().path(), Durable::Object).await;
        let put = async |block: u64| {
            let writing = server.begin(block, 1).await.unwrap();
            server.put(&writing, block + 1);
            server.volume.commit(&[(writing, Kind::Data)]).unwrap();
            assert_eq!(server.flush().await, Ok(0));
        };
        put(0).await;
        // The first write of the next segment fails.
        let failed = server.begin(9, 1).await.unwrap();
        server.volume.abandon(&failed);
        collect::store_map(&server.volume, &mut true).await.unwrap();
        put(1).await;
        put(2).await;
        server.kill();
        let next = opened(&bucket, caches().path(), Durable::Object).await;
        assert_eq!(next.read_all().await[..4], [1, 2, 3, 0]);
    });
}

#[test]
fn what_nobody_flushes_is_stored_after_a_while() {
    run(|seed| async move {
        let bucket = Bucket::new(seed, Weather::calm());
        let cache = caches();
        let server = opened(&bucket, cache.path(), Durable::Local).await;
        let mut segments = 0;
        for block in 0..200 {
            let writing = server.begin(block, 1).await.unwrap();
            server.put(&writing, block + 1);
            server.volume.commit(&[(writing, Kind::Data)]).unwrap();
            if block % 50 == 49 {
                tokio::time::sleep(Duration::from_secs(3)).await;
                let stored = bucket.contents().keys().filter(|key| key.starts_with("log/")).count();
                assert!(stored > segments && server.volume.state().behind() == 0, "after block {block}");
                segments = stored;
            }
        }
    });
}
