//! Stores the map from time to time, which makes possible what keeps the store small: segments with nothing in them are deleted, and what little is in others is
//! moved out of them.
//!
//! **Order.** Whoever opens the volume reads the newest map and the log after it. So a segment may be deleted once a
//! map is stored that does not name it, and that comes after it in the log. What is moved is written again, as any other
//! write is, with a note of where it was: when the log is read, it counts only where the map still names that place. So a move
//! never undoes a write.
//!
//! **What else needs it.** Snapshots need what died after them, the map that they begin with, and the log from there on
//! ([`Snapshots::need`](super::snapshots::Snapshots::need)). Who may still open an earlier state needs the newest map that was stored before
//! that time, and all that has died since. Which map is the newest is known from the moment on at which it is decided what dies
//! with it: a snapshot that is made before begins with an earlier one, and is looked at; one that is made afterwards begins with
//! this one. What is kept is named in the map, with where it died, so that the next server knows. Segments of a volume whose
//! clone this is are not its own: it deletes none, and moves nothing out of them.
//!
//! A writer that was fenced, and does not know it yet, may delete what was dead at a map of its own, and earlier maps. So a snapshot
//! begins with a map that its own writer has stored, which is later than all of that.
//!
//! Fences are never deleted: a writer that was fenced may come back at any time.

use super::format::{
    BLOCK, BLOCK_LENGTH, Kept, Kind, LEAST_SEGMENT, LOG, Listed, LogId, MAPS, Rest, Run, StoredMap,
};
use super::map::Map;
use super::open::again;
use super::state::{Pin, Refused, Segment, State, Way};
use super::upload::{drain, put};
use super::volume::Volume;
use crate::store::Entry;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;
use tokio::sync::oneshot;
use ublk_core::backend::Storage;

/// After a map could not be stored.
const PAUSE: Duration = Duration::from_secs(10);
/// Of what is stored, at least so much is to be the disk's: in hundredths.
const FULL: u64 = 70;
/// In hundredths: a segment is emptied if less of its blocks are the disk's.
const POOR: u32 = 60;
/// Blocks that are moved at a time.
const MOVES: u32 = 256;
/// Blocks: less is not worth a map.
const SOME: u64 = (64 << 20) / BLOCK;
/// Segments that one round empties at most.
const ROUND: usize = 64;
/// Keys that are deleted with one call.
const DELETES: usize = 1000;

/// Runs until the volume is closed or stopped. It does something only after something was stored.
pub async fn run(volume: Arc<Volume>) {
    let (mut listed, mut size) = (false, 0);
    super::clone::finish_removals(&volume).await;
    loop {
        volume.stored.notified().await;
        let due = {
            let state = volume.state();
            if volume.ending.load(SeqCst) || state.stopped().is_some() {
                return;
            }
            let (segments, blocks) = state.since_map;
            // A map is to be a small part of what is stored.
            let due = (blocks >= volume.tuning.map_blocks
                || segments >= volume.tuning.map_segments
                || (blocks >= SOME && is_poor(&state)))
                && blocks * BLOCK >= size * 16;
            due || (state.behind() == 0 && volume.tidy.swap(false, SeqCst))
        };
        if !due {
            continue;
        }
        match store_map(&volume, &mut listed).await {
            Ok(bytes) => {
                size = bytes;
                empty_some(&volume).await;
            }
            Err(why) => {
                volume.report(format!("{}: the map cannot be stored: {why}", volume.store.name()));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether too much of what is stored is not the disk's.
fn is_poor(state: &State) -> bool {
    let (stored, live) = movable(state).fold((0, 0), |(stored, live), (_, segment)| {
        (stored + u64::from(segment.blocks), live + u64::from(segment.live))
    });
    live * 100 < stored * FULL && stored - live >= SOME
}

/// The segments of which moving the rest out would free the space.
fn movable(state: &State) -> impl Iterator<Item = (u32, &Segment)> {
    state.stored().filter(|(_, segment)| !segment.kept && state.is_freed_by_moves(segment.id))
}

/// Stores the map as of now, and deletes what only earlier ones need. Returns its length in bytes.
pub async fn store_map(volume: &Arc<Volume>, listed: &mut bool) -> Result<u64, String> {
    let _alone = volume.mapping.lock().await;
    let (map, at, segments, rest) = still(volume).await?;
    drain(volume).await.map_err(|_| "the disk has stopped".to_owned())?;
    let Some(at) = at else { return Ok(0) };
    let stored = describe(&map, at, &segments, rest);
    drop(map);
    let bytes = stored.encode();
    let length = bytes.len() as u64;
    put(volume, &at.map_key(), Bytes::from(bytes)).await.map_err(|error| error.message)?;
    volume.state().stored_map = Some(at);
    let needed: HashSet<_> = stored.segments.iter().map(|listed| listed.id).collect();
    delete_rest(volume, at, &needed, listed).await?;
    Ok(length)
}

/// Segments by their numbers in the table.
type Segments = HashMap<u32, Listed>;

/// The map between two writes, the last segment that it knows, and all segments. New writes wait meanwhile, which is until those
/// under way are done.
async fn still(volume: &Arc<Volume>) -> Result<Still, String> {
    volume.state().pause();
    loop {
        match settled(volume) {
            Ok(still) => return Ok(still),
            Err(receiver) => {
                if receiver.await.is_ok_and(|result| result < 0) {
                    return Err("the disk has stopped".to_owned());
                }
            }
        }
    }
}

type Still = (Map, Option<LogId>, Segments, Rest);

/// The same, if no write is under way; else what tells when to look again.
fn settled(volume: &Volume) -> Result<Still, oneshot::Receiver<i32>> {
    let mut state = volume.state();
    if !state.is_settled() {
        let (sender, receiver) = oneshot::channel();
        state.wait_for(
            Refused::Unsettled,
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        );
        return Err(receiver);
    }
    let headers: HashMap<_, _> = state
        .unsent()
        .map(|unsent| (unsent.segment, super::format::header_blocks(unsent.extents.len())))
        .collect();
    let segments = state.all().map(|(number, segment)| {
        let header = headers.get(&number).copied().unwrap_or(segment.header);
        (number, Listed { id: segment.id, header, blocks: segment.blocks })
    });
    let segments: Segments = segments.collect();
    // A segment that is open and has nothing, since its writes have failed, will have something later: it is not part of the map.
    // Of an epoch in which nothing was stored, there is nothing to name a map by.
    let (map, at) = (state.map.clone(), state.last_sealed());
    let rest = rest(volume, &state, at, &segments);
    state.since_map = (0, 0);
    let told = state.go_on();
    drop(state);
    told.tell();
    Ok((map, at, segments, rest))
}

/// What is known beside the map, as of a segment.
fn rest(volume: &Volume, state: &State, at: Option<LogId>, segments: &Segments) -> Rest {
    let retains = !volume.tuning.retain.is_zero();
    let is_kept = |segment: &Segment| {
        segment.live == 0
            && state.is_own(segment.id)
            && at.is_some_and(|at| segment.id <= at)
            && (retains
                || state.snapshots.need(segment.id, segment.death)
                // A snapshot that is made until this map is stored begins with the one before.
                || state.stored_map.is_none_or(|map| segment.id > map))
    };
    let kept = state
        .all()
        .filter(|(_, segment)| is_kept(segment))
        .filter_map(|(number, segment)| Some(Kept { listed: *segments.get(&number)?, death: segment.death }));
    Rest { size: state.blocks * BLOCK, snapshots: state.snapshots.all(), kept: kept.collect() }
}

fn describe(map: &Map, at: LogId, segments: &Segments, rest: Rest) -> StoredMap {
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    let mut stored = StoredMap { at, rest, ..StoredMap::default() };
    for (block, place, blocks) in map.runs() {
        let Some(listed) = segments.get(&place.segment) else { continue };
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        let segment = *numbers.entry(place.segment).or_insert_with(|| {
            stored.segments.push(*listed);
            next
        });
        stored.runs.push(Run { block, blocks, segment, place: place.block });
    }
    stored
}

/// Deletes the segments up to a stored map that it does not name, and all maps before it, but for what else needs them.
async fn delete_rest(
    volume: &Arc<Volume>,
    at: LogId,
    needed: &HashSet<LogId>,
    listed: &mut bool,
) -> Result<(), String> {
    let store = &volume.store;
    let failed = |error: crate::store::StoreError| error.message;
    let maps = again(|| store.list(MAPS, None)).await.map_err(failed)?;
    // What was stored up to here, and had died by then, nobody may open any more.
    let since = horizon(&maps, at, volume.tuning.retain);
    let mut keys: Vec<String> = {
        let mut state = volume.state();
        let dead = |segment: &Segment| {
            segment.live == 0 && segment.id <= at && state.is_own(segment.id) && !needed.contains(&segment.id)
        };
        let is_free = |segment: &Segment| {
            let Segment { id, death, .. } = *segment;
            segment.pins == 0
                && since.is_some_and(|since| id.max(death) <= since)
                && !state.snapshots.need(id, death)
        };
        let dead: Vec<_> = state
            .stored()
            .filter(|(_, segment)| dead(segment))
            .map(|(number, segment)| (number, segment.id, is_free(segment)))
            .collect();
        let maps = maps.iter().filter(|entry| {
            LogId::of_map_key(&entry.key)
                .is_some_and(|map| since.is_some_and(|since| map < since) && !state.snapshots.begin_with(map))
        });
        let mut keys: Vec<_> = maps.map(|entry| entry.key.clone()).collect();
        for (number, id, free) in dead {
            if free {
                state.remove(number);
                keys.push(id.key());
            } else {
                state.keep_dead(number);
            }
        }
        keys
    };
    if !*listed {
        // What a server left that ended between this and its map.
        let log = again(|| store.list(LOG, None)).await.map_err(failed)?;
        let state = volume.state();
        let rest = log.into_iter().filter(|entry| {
            entry.size >= LEAST_SEGMENT
                && LogId::of_key(&entry.key)
                    .is_some_and(|id| id < at && !needed.contains(&id) && state.number(id).is_none())
        });
        keys.extend(rest.map(|entry| entry.key));
        drop(state);
        *listed = true;
    }
    keys.sort();
    keys.dedup();
    volume.counts.deleted.fetch_add(keys.len() as u64, Relaxed);
    for part in keys.chunks(DELETES) {
        again(|| store.delete(part.to_vec())).await.map_err(|error| {
            *listed = false; // the rest is looked for after the next map
            failed(error)
        })?;
    }
    Ok(())
}

/// The newest map that was stored before the time up to which earlier states are kept, by the store's clock.
fn horizon(maps: &[Entry], at: LogId, retain: Duration) -> Option<LogId> {
    if retain.is_zero() {
        return Some(at);
    }
    let known = || maps.iter().filter_map(|entry| Some((LogId::of_map_key(&entry.key)?, entry.changed?)));
    let (_, now) = known().find(|(id, _)| *id == at)?;
    let before = known().filter(|(id, changed)| *id <= at && *changed + retain <= now);
    before.map(|(id, _)| id).max()
}

/// Moves the blocks out of some segments that have little of the disk, while too much of what is stored is not the disk's.
async fn empty_some(volume: &Arc<Volume>) {
    let (map, poor) = {
        let state = volume.state();
        let (mut live, mut all) = (0, 0);
        let mut poor = Vec::new();
        for (number, segment) in movable(&state) {
            live += u64::from(segment.live);
            all += u64::from(segment.blocks);
            if segment.live > 0 && segment.live * 100 < segment.blocks * POOR {
                poor.push((segment.live * 100 / segment.blocks.max(1), number, segment.id, segment.blocks));
            }
        }
        poor.sort_unstable();
        let mut chosen = HashMap::new();
        for (_, number, id, blocks) in poor {
            if chosen.len() >= ROUND || live * 100 >= all * FULL {
                break;
            }
            all -= u64::from(blocks);
            chosen.insert(number, id);
        }
        if chosen.is_empty() {
            return;
        }
        (state.map.clone(), chosen)
    };
    for (block, place, blocks) in map.runs() {
        let Some(id) = poor.get(&place.segment) else { continue };
        let mut done = 0;
        while done < blocks {
            let count = (blocks - done).min(MOVES);
            let at = super::map::Place { block: place.block + done, ..place };
            if volume.ending.load(SeqCst)
                || shift(volume, block + u64::from(done), count, at, *id).await.is_err()
            {
                return;
            }
            done += count;
        }
    }
}

/// Writes blocks again, if they are still at that place.
async fn shift(
    volume: &Arc<Volume>,
    block: u64,
    blocks: u32,
    at: super::map::Place,
    id: LogId,
) -> Result<(), i32> {
    let (local, header) = {
        let mut state = volume.state();
        if state.number(id) != Some(at.segment) || state.map.get(block) != Some(at) {
            return Ok(());
        }
        let local = state.hold(at.segment);
        (local, state.segment(at.segment).header)
    };
    let data = match local {
        Some(start) => {
            let data = volume.load(start + u64::from(at.block) * BLOCK, blocks as usize * BLOCK_LENGTH);
            volume.unpin([Pin::Segment(at.segment)].into_iter());
            Bytes::from(data.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?)
        }
        None => match super::fetch::read(volume, id, header, at.block..at.block + blocks).await {
            Err(libc::EAGAIN) => return Ok(()),
            data => data?,
        },
    };
    let writing = loop {
        let (sender, receiver) = oneshot::channel();
        let waiter: super::state::Waiter = Box::new(move |result| {
            let _ = sender.send(result);
        });
        match volume.begin_write(block, blocks, Way::Move, || waiter)? {
            Some(writing) => break writing,
            None => drop(receiver.await),
        }
    };
    let kind = Kind::Moved { from: id, place: at.block };
    if let Err(error) = volume.with_files(|| volume.data.store(writing.offset(), &data)) {
        volume.abandon(&writing);
        return Err(error.raw_os_error().unwrap_or(libc::EIO));
    }
    volume.counts.moved.fetch_add(blocks.into(), Relaxed);
    volume.commit(&[(writing, kind)]).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}
