//! Brings chunks of segments from the store to the local file. Requests for the same chunk share one call.

use super::cache::{CHUNK, Key};
use super::format::{BLOCK, BLOCK_LENGTH, LogId};
use super::index::Chunk;
use super::state::Waiter;
use super::upload::{Patience, Way};
use super::volume::Volume;
use crate::store::StoreErrorKind;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;
use tokio::time::Instant;
use ublk_core::backend::Storage;

/// Chunks that are asked for with one call.
const TOGETHER: u32 = 16;

/// Chunks that are brought in advance at a time.
const MOST_AHEAD: usize = 256;

/// Chunks of one segment, one after the other.
#[derive(Debug, Clone, Copy)]
struct Range {
    segment: u32,
    id: LogId,
    /// Blocks: of the segment's header, and of its data.
    header: u32,
    blocks: u32,
    first: u32,
    count: u32,
}

/// Has chunks brought. Each waiter is told when its chunk is there, or cannot be had.
pub fn fetch(volume: &Arc<Volume>, wanted: Vec<(Key, Waiter)>, handle: &tokio::runtime::Handle) {
    let mut state = volume.state();
    if let Some(errno) = state.stopped() {
        drop(state);
        return wanted.into_iter().for_each(|(_, waiter)| waiter(-errno));
    }
    let mut ranges: Vec<Range> = Vec::new();
    let mut here = Vec::new();
    for (key, waiter) in wanted {
        let gone = state.segment(key.segment).blocks <= key.chunk * CHUNK;
        if gone || state.cache.find(key).is_some() {
            here.push(waiter); // it has come since, or is elsewhere
            continue;
        }
        let waiters = state.fetching.entry(key).or_default();
        waiters.push(waiter);
        if waiters.len() > 1 {
            continue;
        }
        if let Some(last) = ranges.last_mut()
            && last.segment == key.segment
            && last.first + last.count == key.chunk
            && last.count < TOGETHER
        {
            last.count += 1;
            continue;
        }
        let segment = state.segment(key.segment);
        let (id, header, blocks) = (segment.id, segment.header, segment.blocks);
        ranges.push(Range { segment: key.segment, id, header, blocks, first: key.chunk, count: 1 });
    }
    drop(state);
    here.into_iter().for_each(|waiter| waiter(0));
    for range in ranges {
        volume.counts.misses.fetch_add(range.count.into(), Relaxed);
        handle.spawn(bring(volume.clone(), range));
    }
}

/// Has what is missing of a range of bytes brought, for nobody in particular.
pub fn ahead(volume: &Arc<Volume>, range: std::ops::Range<u64>, handle: &tokio::runtime::Handle) {
    let mut missing = volume.state().missing(range.start / BLOCK..range.end.div_ceil(BLOCK));
    // What was written at random is in many places: to bring all of them would cost more than it saves.
    missing.truncate(MOST_AHEAD);
    if !missing.is_empty() {
        fetch(volume, missing.into_iter().map(|key| (key, Box::new(|_| {}) as Waiter)).collect(), handle);
    }
}

async fn bring(volume: Arc<Volume>, range: Range) {
    let result = match load(&volume, &range).await {
        Ok(bytes) => keep(&volume, &range, &bytes).await.map_or_else(|errno| -errno, |()| 0),
        Err(errno) => -errno,
    };
    let mut state = volume.state();
    let keys = (range.first..range.first + range.count).map(|chunk| Key { segment: range.segment, chunk });
    let waiters: Vec<_> = keys.filter_map(|key| state.fetching.remove(&key)).flatten().collect();
    drop(state);
    waiters.into_iter().for_each(|waiter| waiter(result));
}

/// The data of some blocks of a segment's data, from the store.
pub async fn read(
    volume: &Volume,
    id: LogId,
    header: u32,
    blocks: std::ops::Range<u32>,
) -> Result<Bytes, i32> {
    let bytes = |block: u32| (u64::from(header) + u64::from(block)) * BLOCK;
    let (key, wanted) = (id.key(), bytes(blocks.start)..bytes(blocks.end));
    let store = volume.origins.of(id);
    let mut patience = Patience::new();
    let until = Instant::now() + volume.tuning.patience;
    loop {
        let length = wanted.end - wanted.start;
        let call = patience.watch(volume, Way::Down, length, store.get(&key, Some(wanted.clone())));
        let Ok(answer) = tokio::time::timeout_at(until, call).await else {
            let limit = volume.tuning.patience.as_secs_f64();
            volume.report(format!("{}: a read has failed: no answer within {limit} s", store.name()));
            return Err(libc::EIO);
        };
        match answer {
            Ok(data) if data.len() as u64 == wanted.end - wanted.start => {
                volume.report_again(Way::Down);
                return Ok(data);
            }
            Ok(data) => {
                volume.report(format!("{}/{key} is cut short: {} bytes", store.name(), data.len()));
                return Err(libc::EIO);
            }
            // Its data was moved since: the map has another place.
            Err(error) if error.kind == StoreErrorKind::NotFound && volume.state().number(id).is_none() => {
                return Err(libc::EAGAIN);
            }
            Err(error) => {
                volume.counts.failures.fetch_add(1, Relaxed);
                let for_good = matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Refused);
                if for_good || patience.elapsed() >= volume.tuning.patience || volume.ending.load(SeqCst) {
                    volume.report(format!("{}: a read has failed: {}", store.name(), error.message));
                    return Err(libc::EIO);
                }
                if let Some(why) = patience.failed(&error.message) {
                    volume.report_late(Way::Down, format!("{}: {why}; reads wait", store.name()));
                }
            }
        }
        patience.pause().await;
    }
}

async fn load(volume: &Volume, range: &Range) -> Result<Bytes, i32> {
    let end = ((range.first + range.count) * CHUNK).min(range.blocks);
    match read(volume, range.id, range.header, range.first * CHUNK..end).await {
        Err(libc::EAGAIN) => Ok(Bytes::new()),
        data => data,
    }
}

/// Puts chunks into the local file.
async fn keep(volume: &Volume, range: &Range, bytes: &Bytes) -> Result<(), i32> {
    for (chunk, data) in (range.first..).zip(bytes.chunks(CHUNK as usize * BLOCK_LENGTH)) {
        let slot = loop {
            let slot = volume.state().cache.reserve();
            match slot {
                Some(slot) => break slot,
                None => tokio::time::sleep(Duration::from_millis(5)).await, // requests have all of them
            }
        };
        let at = volume.state().layout.slot(slot);
        let kept = volume.with_files(|| {
            volume.index.clear(slot)?;
            volume.data.store(at, data)?;
            volume.index.set(slot, Chunk { id: range.id, chunk })
        });
        let mut state = volume.state();
        // The segment may be gone, and its number another's.
        let same = state.number(range.id) == Some(range.segment);
        match &kept {
            Ok(()) if same => state.cache.fill(slot, Key { segment: range.segment, chunk }),
            _ => state.cache.give_up(slot),
        }
        drop(state);
        if let Err(error) = kept {
            volume.report(format!("the cache cannot be written: {error}"));
            return Err(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }
    Ok(())
}
