//! Snapshots, clones and earlier states against a simulated store, in all weathers: each reads exactly what the disk had at that
//! instant, whatever is written, collected, removed and killed afterwards.

use super::changes::{make_snapshot, prepare_snapshot, set_size, wait_until_stored};
use super::clone::{self, CloneOf};
use super::collect;
use super::disk::Options;
use super::format::{BLOCK, Kind, VOLUME};
use super::model::{BLOCKS, History, Random, Server, caches, empty, options, run, tuning, work};
use super::origins::Opener;
use super::reading::At;
use super::volume::{Durable, Tuning, Volume};
use crate::store::simulated::{Bucket, Weather};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use ublk_core::error::{Error, ErrorKind, Result};

/// Volumes by their URLs.
#[derive(Clone, Default)]
struct World(Arc<Mutex<BTreeMap<String, Bucket>>>);

impl World {
    fn bucket(&self, url: &str, seed: u64, weather: &Weather) -> Bucket {
        let mut all = self.0.lock().unwrap();
        all.entry(url.to_owned()).or_insert_with(|| Bucket::new(seed, weather.clone())).clone()
    }

    fn opener(&self) -> Opener {
        let world = self.clone();
        Arc::new(move |url| {
            let found = world.0.lock().unwrap().get(url).cloned();
            Ok(found.ok_or_else(|| Error::new(ErrorKind::NotFound, url))?.client())
        })
    }

    /// Opens a volume; in a storm, that is tried again.
    async fn open(&self, url: &str, cache: &Path, how: impl Fn(Options) -> Options) -> Result<Server> {
        self.open_tuned(url, cache, how, tuning(Durable::Object)).await
    }

    async fn open_tuned(
        &self,
        url: &str,
        cache: &Path,
        how: impl Fn(Options) -> Options,
        tuning: Tuning,
    ) -> Result<Server> {
        let bucket = self.bucket(url, 0, &Weather::calm());
        loop {
            let options = how(Options { url: url.to_owned(), ..options(cache) });
            match Server::open_with(&bucket, options, tuning.clone(), self.opener()).await {
                Err(error) if error.message.contains("simulated") => {}
                done => return done,
            }
        }
    }

    async fn at(&self, url: &str, at: At) -> Result<Vec<u64>> {
        let cache = caches();
        let server =
            self.open(url, cache.path(), |options| Options { at: Some(at.clone()), ..options }).await?;
        let found = server.read_all().await;
        server.kill();
        Ok(found)
    }
}

async fn snapshot(volume: &Arc<Volume>, name: &str) -> Result<()> {
    prepare_snapshot(volume, name).await?;
    wait_until_stored(volume, make_snapshot(volume, name)?).await
}

/// What the test knows of a volume.
struct Model {
    url: String,
    /// What the disk had when each of them was made.
    snapshots: BTreeMap<String, Vec<u64>>,
    /// Those of which it is not known whether they were made, or removed.
    doubtful: BTreeMap<String, Vec<u64>>,
    /// Snapshots that have clones, and those that may have.
    cloned: Vec<String>,
    marked: Vec<String>,
    history: History,
}

impl Model {
    fn now(&self) -> Vec<u64> {
        self.history.after(self.history.done.len())
    }

    fn some(&self, random: &mut Random) -> Option<String> {
        let at = random.below(self.snapshots.len().max(1) as u64) as usize;
        self.snapshots.keys().nth(at).cloned()
    }

    /// Which of the doubtful ones there are.
    async fn settle(&mut self, server: &Server) {
        loop {
            let all = server.volume.state().snapshots.all();
            if all.iter().any(|snapshot| snapshot.removing) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            for (name, was) in std::mem::take(&mut self.doubtful) {
                if all.iter().any(|snapshot| snapshot.name == name) {
                    self.snapshots.insert(name, was);
                } else {
                    assert!(!self.cloned.contains(&name), "{name} has a clone, and is gone");
                }
            }
            let names: Vec<_> = all.iter().map(|snapshot| snapshot.name.clone()).collect();
            let mut expected: Vec<_> = self.snapshots.keys().cloned().collect();
            expected.sort_by_key(|name| all.iter().position(|snapshot| snapshot.name == *name));
            assert_eq!(names, expected);
            return;
        }
    }
}

#[test]
fn a_snapshot_and_its_clones_are_what_the_disk_was() {
    run(|seed| async move {
        let mut random = Random(seed);
        let weather = if random.below(3) == 0 { Weather::calm() } else { Weather::stormy() };
        let world = World::default();
        world.bucket("sim://0", seed, &weather);
        let (mut names, mut clones, mut cache) = (0, Vec::<Model>::new(), caches());
        let model = |url: String, base: Vec<u64>, stamps| Model {
            url,
            snapshots: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            cloned: Vec::new(),
            marked: Vec::new(),
            history: History::new(base, stamps),
        };
        let mut disk = model("sim://0".into(), empty(), 0);
        for life in 0..3 {
            let size = |options| Options { size: Some(BLOCKS * BLOCK), ..options };
            let server = world.open(&disk.url, cache.path(), size).await.unwrap();
            let found = server.read_all().await;
            disk.history.check_prefix(&found, &format!("life {life}"));
            disk.history = History::new(found, disk.history.stamps);
            disk.settle(&server).await;
            for _ in 0..2 + random.below(6) {
                let turns = random.below(50);
                work(&server, &mut disk.history, &mut random, turns).await;
                let in_time =
                    Duration::from_millis(if random.below(4) == 0 { random.below(400) } else { 1 << 40 });
                match random.below(6) {
                    0 | 1 => {
                        names += 1;
                        let (name, was) = (format!("s{names}"), disk.now());
                        let made = tokio::time::timeout(in_time, snapshot(&server.volume, &name)).await;
                        let Ok(made) = made else {
                            disk.doubtful.insert(name, was);
                            break; // killed on the way
                        };
                        match made {
                            Err(error) if error.message.contains("simulated") => continue,
                            made => made.unwrap(),
                        }
                        disk.history.flushed = disk.history.commits;
                        assert!(
                            snapshot(&server.volume, &name).await.unwrap_err().message.contains("already")
                        );
                        disk.snapshots.insert(name, was);
                    }
                    2 => {
                        let Some(name) = disk.some(&mut random) else { continue };
                        let removed =
                            tokio::time::timeout(in_time, clone::remove(&server.volume, &name)).await;
                        let Ok(removed) = removed else {
                            let was = disk.snapshots.remove(&name).unwrap();
                            disk.doubtful.insert(name, was);
                            break;
                        };
                        match removed {
                            Err(error) if error.message.contains("simulated") => {
                                let was = disk.snapshots.remove(&name).unwrap();
                                disk.doubtful.insert(name, was);
                                break;
                            }
                            Err(error) => assert!(disk.marked.contains(&name), "{}", error.message),
                            Ok(()) => {
                                assert!(!disk.cloned.contains(&name));
                                disk.snapshots.remove(&name);
                            }
                        }
                    }
                    3 => {
                        let Some(name) = disk.some(&mut random) else { continue };
                        let was = &disk.snapshots[&name];
                        assert_eq!(&world.at(&disk.url, At::Snapshot(name.clone())).await.unwrap(), was);
                    }
                    4 if clones.len() < 4 => {
                        let Some(name) = disk.some(&mut random) else { continue };
                        let url = format!("sim://{}", clones.len() + 1);
                        let bucket = world.bucket(&url, seed ^ 77, &weather);
                        let from = CloneOf { url: disk.url.clone(), snapshot: name.clone() };
                        let with = |options| Options { from: Some(from.clone()), ..options };
                        let its = caches();
                        let opening = world.open(&url, its.path(), with);
                        // Making it may be cut off anywhere.
                        let clone = tokio::time::timeout(in_time, opening).await;
                        disk.marked.push(name.clone());
                        if bucket.object(VOLUME).is_some() {
                            disk.cloned.push(name.clone());
                        }
                        let was = disk.snapshots[&name].clone();
                        let mut made = model(url, was.clone(), disk.history.stamps + (1 << 32));
                        if let Ok(clone) = clone {
                            let clone = clone.unwrap();
                            assert_eq!(clone.read_all().await, was);
                            let turns = random.below(60);
                            work(&clone, &mut made.history, &mut random, turns).await;
                            if random.below(2) == 0 {
                                let _ = collect::store_map(&clone.volume, &mut false).await;
                            }
                            assert_eq!(clone.read_all().await, made.now());
                            clone.kill();
                        }
                        clones.push(made);
                    }
                    _ => drop(collect::store_map(&server.volume, &mut (random.below(2) == 0)).await),
                }
                assert_eq!(server.read_all().await, disk.now(), "as it was written");
            }
            server.kill();
            if random.below(2) == 0 {
                cache = caches();
            } else {
                // Its cache has all that was answered.
                disk.history.flushed = disk.history.commits;
            }
        }
        let server = world.open(&disk.url, cache.path(), |options| options).await.unwrap();
        disk.settle(&server).await;
        let _ = collect::store_map(&server.volume, &mut false).await;
        for (name, was) in &disk.snapshots {
            assert_eq!(&world.at(&disk.url, At::Snapshot(name.clone())).await.unwrap(), was, "{name}");
        }
        for clone in &clones {
            match world.open(&clone.url, caches().path(), |options| options).await {
                Ok(server) => {
                    clone.history.check_prefix(&server.read_all().await, &clone.url);
                    server.kill();
                }
                Err(error) => assert_eq!(error.kind, ErrorKind::NotFound, "{}", error.message),
            }
        }
        server.kill();
    });
}

async fn write(server: &Server, block: u64, blocks: u32, stamp: u64) {
    let writing = server.begin(block, blocks).await.unwrap();
    server.put(&writing, stamp);
    server.volume.commit(&[(writing, Kind::Data)]).unwrap();
}

#[test]
fn what_was_removed_gives_its_space_back_and_a_clone_of_a_clone_reads_from_both() {
    run(|seed| async move {
        let world = World::default();
        let bucket = world.bucket("sim://0", seed, &Weather::calm());
        let size = |options| Options { size: Some(BLOCKS * BLOCK), ..options };
        let server = world.open("sim://0", caches().path(), size).await.unwrap();
        write(&server, 0, 600, 1).await;
        snapshot(&server.volume, "one").await.unwrap();
        write(&server, 0, 600, 2).await;
        assert_eq!(server.flush().await, Ok(0));
        collect::store_map(&server.volume, &mut false).await.unwrap();
        let stored = |bucket: &Bucket| bucket.contents().values().map(|body| body.len() as u64).sum::<u64>();
        assert!(stored(&bucket) > 1200 * BLOCK);
        let from = |url: &str, snapshot: &str| CloneOf { url: url.into(), snapshot: snapshot.into() };
        let of = |from: CloneOf| move |options| Options { from: Some(from.clone()), ..options };
        world.bucket("sim://1", seed, &Weather::calm());
        let first = world.open("sim://1", caches().path(), of(from("sim://0", "one"))).await.unwrap();
        write(&first, 0, 10, 3).await;
        snapshot(&first.volume, "two").await.unwrap();
        world.bucket("sim://2", seed, &Weather::calm());
        let second = world.open("sim://2", caches().path(), of(from("sim://1", "two"))).await.unwrap();
        write(&second, 5, 10, 4).await;
        assert_eq!(second.flush().await, Ok(0));
        let mut expected = empty();
        expected[..600].fill(1);
        expected[..10].fill(3);
        expected[5..15].fill(4);
        for map in [false, true] {
            if map {
                collect::store_map(&second.volume, &mut false).await.unwrap();
            }
            let again = world.open("sim://2", caches().path(), |options| options).await.unwrap();
            assert_eq!(again.read_all().await, expected);
            again.kill();
        }
        for (server, name) in [(&server, "one"), (&first, "two")] {
            let error = clone::remove(&server.volume, name).await.unwrap_err();
            assert!(error.kind == ErrorKind::Busy && error.message.contains("has a clone: sim://"));
        }
        let other = world.open("sim://1", caches().path(), of(from("sim://0", "two"))).await;
        assert!(other.is_err_and(|error| error.message.contains("is no clone of sim://0@two")));
        // A clone is deleted by deleting its objects. Its mark is old by the clock of this machine only, so it is taken away.
        for bucket in [&bucket, &world.bucket("sim://1", 0, &Weather::calm())] {
            let marks: Vec<_> =
                bucket.contents().into_keys().filter(|key| key.starts_with("clone/")).collect();
            assert_eq!(marks.len(), 1);
            bucket.remove(&marks[0]);
        }
        clone::remove(&server.volume, "one").await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(stored(&bucket) < 700 * BLOCK, "{}", stored(&bucket));
        let gone = clone::remove(&server.volume, "one").await;
        assert!(gone.is_err_and(|error| error.kind == ErrorKind::NotFound));
    });
}

#[test]
fn what_is_retained_can_be_opened_as_it_was_and_nothing_else() {
    run(|seed| async move {
        let mut random = Random(seed);
        let world = World::default();
        let bucket = world.bucket("sim://0", seed, &Weather::calm());
        let retain = Duration::from_secs(300);
        let tuning = Tuning { retain, ..tuning(Durable::Object) };
        let size = |options| Options { size: Some(BLOCKS * BLOCK), ..options };
        let (mut history, mut then) = (History::new(empty(), 0), Vec::<(SystemTime, Vec<u64>)>::new());
        for _ in 0..3 {
            let server = world.open_tuned("sim://0", caches().path(), size, tuning.clone()).await.unwrap();
            for _ in 0..6 {
                let turns = random.below(60);
                work(&server, &mut history, &mut random, turns).await;
                assert_eq!(server.flush().await, Ok(0));
                if random.below(3) == 0 {
                    collect::store_map(&server.volume, &mut false).await.unwrap();
                }
                then.push((bucket.now(), history.after(history.done.len())));
                tokio::time::sleep(Duration::from_secs(10 + random.below(60))).await;
            }
            history = History::new(history.after(history.done.len()), history.stamps);
            server.kill();
        }
        let mut lost = 0;
        for (time, was) in &then {
            match world.at("sim://0", At::Time(*time)).await {
                Ok(found) => assert_eq!(&found, was),
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::NotFound, "{}", error.message);
                    assert!(*time + retain < bucket.now(), "{}", error.message);
                    lost += 1;
                }
            }
        }
        println!("{lost} of {} are not kept", then.len());
        let before = world.at("sim://0", At::Time(SystemTime::UNIX_EPOCH)).await;
        assert!(before.is_err_and(|error| error.kind == ErrorKind::NotFound));
    });
}

#[test]
fn a_new_size_is_in_the_order_of_writes() {
    run(|seed| async move {
        let world = World::default();
        world.bucket("sim://0", seed, &Weather::calm());
        let size = |options| Options { size: Some(BLOCKS * BLOCK), ..options };
        let server = world.open("sim://0", caches().path(), size).await.unwrap();
        write(&server, 0, 700, 1).await;
        snapshot(&server.volume, "large").await.unwrap();
        set_size(&server.volume, 300 * BLOCK).await.unwrap();
        snapshot(&server.volume, "small").await.unwrap();
        set_size(&server.volume, 600 * BLOCK).await.unwrap();
        write(&server, 500, 10, 2).await;
        assert_eq!(server.flush().await, Ok(0));
        let mut expected = empty();
        expected[..300].fill(1);
        expected[500..510].fill(2);
        assert_eq!(server.read_all().await, expected);
        for map in [false, true] {
            if map {
                collect::store_map(&server.volume, &mut false).await.unwrap();
            }
            let (mut large, mut small) = (empty(), empty());
            large.fill(1);
            small[..300].fill(1);
            assert_eq!(world.at("sim://0", At::Snapshot("large".into())).await.unwrap(), large);
            assert_eq!(world.at("sim://0", At::Snapshot("small".into())).await.unwrap(), small);
        }
        server.kill();
        let again = world.open("sim://0", caches().path(), |options| options).await.unwrap();
        assert_eq!((again.volume.size(), again.read_all().await), (600 * BLOCK, expected));
        again.kill();
        let of = CloneOf { url: "sim://0".into(), snapshot: "small".into() };
        world.bucket("sim://1", seed, &Weather::calm());
        let with = |options| Options { from: Some(of.clone()), ..options };
        let clone = world.open("sim://1", caches().path(), with).await.unwrap();
        assert_eq!(clone.volume.size(), 300 * BLOCK);
    });
}

#[test]
fn a_writer_that_stood_still_while_it_collected_breaks_no_snapshot_of_the_next_one() {
    run(|seed| async move {
        let mut random = Random(seed);
        let world = World::default();
        world.bucket("sim://0", seed, &Weather::calm());
        let size = |options| Options { size: Some(BLOCKS * BLOCK), ..options };
        let (one_cache, two_cache) = (caches(), caches());
        let one = world.open("sim://0", one_cache.path(), size).await.unwrap();
        for round in 0..3 {
            write(&one, 0, 300, 1 + round).await;
            write(&one, 300, 300, 11 + round).await;
            assert_eq!(one.flush().await, Ok(0));
        }
        let volume = one.volume.clone();
        let collects = tokio::spawn(async move { collect::store_map(&volume, &mut false).await });
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        one.client.freeze(Duration::from_secs(100));
        let two = world.open("sim://0", two_cache.path(), size).await.unwrap();
        let was = two.read_all().await;
        snapshot(&two.volume, "kept").await.unwrap();
        write(&two, 0, 600, 99).await;
        assert_eq!(two.flush().await, Ok(0));
        tokio::time::sleep(Duration::from_secs(300)).await;
        let _ = collects.await;
        collect::store_map(&two.volume, &mut false).await.unwrap();
        assert_eq!(world.at("sim://0", At::Snapshot("kept".into())).await.unwrap(), was);
        two.kill();
        one.kill();
    });
}
