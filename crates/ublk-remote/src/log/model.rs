//! What tests know of a volume: what its clients did, in the order of the log, and what may be left of that; and servers of it in a
//! simulated store that can be killed and lost.

use super::disk::{LogDisk, Options};
use super::fetch;
use super::format::{BLOCK, Kind, LogId};
use super::origins::Opener;
use super::state::{Found, Pin, Waiter, Way, Writing};
use super::volume::{Durable, Tuning, Volume};
use super::{collect, upload};
use crate::store::Store;
use crate::store::simulated::{Bucket, Simulated};
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
    pub at: (LogId, u64),
    pub block: u64,
    pub blocks: u32,
    /// What each of its blocks says; 0: zeroes.
    pub stamp: u64,
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
    pub async fn open(bucket: &Bucket, cache: &Path, durable: Durable) -> Result<Self> {
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

    pub async fn zero(&self, block: u64, blocks: u32) -> std::result::Result<(), i32> {
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

pub fn tells(sender: tokio::sync::oneshot::Sender<i32>) -> Waiter {
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

    pub fn add(&mut self, id: LogId, block: u64, blocks: u32, stamp: u64) {
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
    pub fn least(&self) -> usize {
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

pub fn finish(server: &Server, history: &mut History, pending: &mut Vec<(Writing, u64, u64)>, at: usize) {
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
