//! The log against a simulated store, in all weathers: what a lost machine leaves is a prefix of what was written, with all that
//! was flushed; what a killed server leaves is everything; and there is one writer.

use super::disk::{LogDisk, Options};
use super::fetch;
use super::format::{BLOCK, Kind, LogId};
use super::origins::Opener;
use super::state::{Found, Pin, Waiter, Way, Writing};
use super::volume::{Durable, Tuning, Volume};
use super::{collect, upload};
use crate::store::Store;
use crate::store::simulated::{Bucket, Simulated, Weather};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use ublk_core::backend::Storage;
use ublk_core::error::{Error, Result};

pub const BLOCKS: u64 = 700;

pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// What was written, in the order of the log: all that counts is in the first so many of these.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Its segment, and the order in which it was committed.
    at: (LogId, u64),
    block: u64,
    blocks: u32,
    /// What each of its blocks says; 0: zeroes.
    stamp: u64,
}

/// A server of the volume.
pub struct Server {
    pub volume: Arc<Volume>,
    pub client: Arc<Simulated>,
    tasks: Vec<JoinHandle<()>>,
    pub complaints: Arc<Mutex<Vec<String>>>,
}

pub fn options(cache: &Path) -> Options {
    Options { cache_size: Options::CACHE_SIZES.0, ..Options::new("sim://".into(), cache.to_owned()) }
}

pub fn tuning(durable: Durable) -> Tuning {
    let delay = Duration::from_secs(1);
    Tuning { durable, delay, sends: 3, map_blocks: 300, map_segments: 12, ..Tuning::default() }
}

impl Server {
    async fn open(bucket: &Bucket, cache: &Path, durable: Durable) -> Result<Self> {
        let options = Options { size: Some(BLOCKS * BLOCK), ..options(cache) };
        let nobody: Opener = Arc::new(|url| Err(Error::invalid(url)));
        Self::open_with(bucket, options, tuning(durable), nobody).await
    }

    pub async fn open_with(
        bucket: &Bucket,
        options: Options,
        tuning: Tuning,
        opener: Opener,
    ) -> Result<Self> {
        let client = bucket.client();
        let store: Arc<dyn Store> = client.clone();
        let found = LogDisk::describe(&store, &options, &opener).await?;
        let reads = options.at.is_some();
        let disk = LogDisk::with((store, opener), found, options, Handle::current(), tuning)?;
        let volume = Arc::new(disk.take().await?);
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let said = complaints.clone();
        volume.report_to(ublk_core::Reporter::new(move |line| said.lock().unwrap().push(line)));
        let tasks = if reads {
            Vec::new()
        } else {
            vec![tokio::spawn(upload::run(volume.clone())), tokio::spawn(collect::run(volume.clone()))]
        };
        Ok(Self { volume, client, tasks, complaints })
    }

    /// Its process is killed, and what it has asked the store for may still happen.
    pub fn kill(self) {
        self.client.crash();
        self.volume.end();
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    pub async fn begin(&self, block: u64, blocks: u32) -> std::result::Result<Writing, i32> {
        loop {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let waiter = tells(sender);
            match self.volume.begin_write(block, blocks, Way::Whole, || waiter)? {
                Some(writing) => return Ok(writing),
                None => drop(receiver.await),
            }
        }
    }

    pub fn put(&self, writing: &Writing, stamp: u64) {
        let block = stamp.to_le_bytes().repeat(BLOCK as usize / 8);
        self.volume.data.store(writing.offset(), &block.repeat(writing.blocks as usize)).unwrap();
    }

    async fn zero(&self, block: u64, blocks: u32) -> std::result::Result<(), i32> {
        loop {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let waiter = tells(sender);
            if self.volume.zero(block, blocks, || waiter)? {
                return Ok(());
            }
            let _ = receiver.await;
        }
    }

    pub fn flush(&self) -> tokio::sync::oneshot::Receiver<i32> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let waiter = tells(sender);
        self.volume.flush(waiter, &Handle::current());
        receiver
    }

    /// What each block says.
    pub async fn read_all(&self) -> Vec<u64> {
        let mut blocks = vec![0; BLOCKS as usize];
        let mut at = 0;
        while at < BLOCKS {
            let mut parts = Vec::new();
            self.volume.find(at, 16.min((BLOCKS - at) as u32), &mut parts).unwrap();
            let pins: Vec<Pin> = parts
                .iter()
                .filter_map(|(.., found)| if let Found::At(_, pin) = found { Some(*pin) } else { None })
                .collect();
            let missing: Vec<_> = parts
                .iter()
                .filter_map(|(.., found)| if let Found::Missing(key) = found { Some(*key) } else { None })
                .collect();
            if missing.is_empty() {
                for (part, count, found) in parts {
                    let Found::At(offset, _) = found else { continue };
                    let data = self.volume.load(offset, (u64::from(count) * BLOCK) as usize).unwrap();
                    for (number, block) in data.chunks(BLOCK as usize).enumerate() {
                        let stamp = u64::from_le_bytes(block[..8].try_into().unwrap());
                        assert!(block.chunks(8).all(|word| word == &block[..8]), "a block is torn");
                        blocks[(at + part) as usize + number] = stamp;
                    }
                }
                self.volume.unpin(pins.into_iter());
                at += 16;
                continue;
            }
            self.volume.unpin(pins.into_iter());
            let mut waits = Vec::new();
            let wanted = missing.into_iter().map(|key| {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                waits.push(receiver);
                (key, tells(sender))
            });
            let wanted = wanted.collect();
            fetch::fetch(&self.volume, wanted, &Handle::current());
            for wait in waits {
                assert_eq!(wait.await, Ok(0), "{:?}", self.complaints.lock().unwrap());
            }
        }
        blocks
    }
}

fn tells(sender: tokio::sync::oneshot::Sender<i32>) -> Waiter {
    Box::new(move |result| {
        let _ = sender.send(result);
    })
}

/// What a client has done to the disk.
#[derive(Default, Clone)]
pub struct History {
    /// Before any of it.
    base: Vec<u64>,
    pub done: Vec<Done>,
    /// How many of them, in the order in which they were committed, a flush has covered.
    pub flushed: u64,
    pub commits: u64,
    pub stamps: u64,
}

impl History {
    pub fn new(base: Vec<u64>, stamps: u64) -> Self {
        Self { base, stamps, ..Self::default() }
    }

    fn add(&mut self, id: LogId, block: u64, blocks: u32, stamp: u64) {
        self.commits += 1;
        self.done.push(Done { at: (id, self.commits), block, blocks, stamp });
        self.done.sort_by_key(|done| done.at);
    }

    /// After the first so many.
    pub fn after(&self, count: usize) -> Vec<u64> {
        let mut blocks = self.base.clone();
        for done in &self.done[..count] {
            blocks[done.block as usize..][..done.blocks as usize].fill(done.stamp);
        }
        blocks
    }

    /// How many have to be there.
    fn least(&self) -> usize {
        let covered = |done: &Done| done.at.1 <= self.flushed;
        self.done.iter().rposition(covered).map_or(0, |last| last + 1)
    }

    pub fn check_prefix(&self, found: &[u64], what: &str) {
        let least = self.least();
        if (least..=self.done.len()).rev().any(|count| self.after(count) == found) {
            return;
        }
        let close = (0..=self.done.len()).find(|count| self.after(*count) == found);
        panic!("{what}: no prefix of at least {least} of {} writes; it is {close:?}", self.done.len());
    }
}

/// Does some things to the disk; ends early if it is stopped.
pub async fn work(server: &Server, history: &mut History, random: &mut Random, turns: u64) {
    let mut flushes: Vec<(u64, tokio::sync::oneshot::Receiver<i32>)> = Vec::new();
    let mut pending: Vec<(Writing, u64, u64)> = Vec::new();
    for _ in 0..turns {
        let block = random.below(BLOCKS);
        let most = [1, 4, 40][random.below(3) as usize];
        let blocks = (1 + random.below(most)).min(BLOCKS - block) as u32;
        match random.below(12) {
            0..5 => {
                // Who copies the map waits for those under way.
                if server.volume.state().is_paused() {
                    while !pending.is_empty() {
                        finish(server, history, &mut pending, 0);
                    }
                }
                let Ok(writing) = server.begin(block, blocks).await else { return };
                history.stamps += 1;
                server.put(&writing, history.stamps);
                pending.push((writing, block, history.stamps));
            }
            5 => {
                // Its place in the log is that of the segment that is written now.
                while !pending.is_empty() {
                    finish(server, history, &mut pending, 0);
                }
                let id = |server: &Server| server.volume.state().open_id();
                if server.zero(block, blocks).await.is_err() {
                    return;
                }
                history.add(id(server), block, blocks, 0);
            }
            6 => {
                let covers = history.commits;
                flushes.push((covers, server.flush()));
            }
            7 if random.below(3) == 0 => {
                if let Some(writing) = pending.pop() {
                    server.volume.abandon(&writing.0);
                }
            }
            8 => tokio::time::sleep(Duration::from_millis(random.below(3000))).await,
            9 => drop(server.read_all().await),
            _ => {}
        }
        while !pending.is_empty() && random.below(3) > 0 {
            let at = random.below(pending.len() as u64) as usize;
            finish(server, history, &mut pending, at);
        }
        tokio::task::yield_now().await;
        flushes.retain_mut(|(covers, flush)| match flush.try_recv() {
            Ok(result) => {
                if result >= 0 {
                    history.flushed = history.flushed.max(*covers);
                }
                false
            }
            Err(_) => true,
        });
    }
    while !pending.is_empty() {
        finish(server, history, &mut pending, 0);
    }
}

fn finish(server: &Server, history: &mut History, pending: &mut Vec<(Writing, u64, u64)>, at: usize) {
    let (writing, block, stamp) = pending.swap_remove(at);
    server.volume.commit(&[(writing, Kind::Data)]).unwrap();
    history.add(writing.id, block, writing.blocks, stamp);
}

pub fn run<F: Future<Output = ()>>(test: impl Fn(u64) -> F) {
    let seeds = std::env::var("UBLK_TS_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let first = std::env::var("UBLK_TS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        println!("seed {seed}");
        let limit = Duration::from_secs(40_000);
        assert!(
            runtime.block_on(async { tokio::time::timeout(limit, test(seed)).await }).is_ok(),
            "it hangs"
        );
    }
}

pub fn empty() -> Vec<u64> {
    vec![0; BLOCKS as usize]
}

pub fn caches() -> TempDir {
    tempfile::tempdir().unwrap()
}

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
