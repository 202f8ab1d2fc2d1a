//! Opening a volume as it was: a snapshot, or what was stored at a time. It is only read: the volume's writer goes on.

use super::changes::no_snapshot;
use super::format::{BLOCK, LOG, LogId, MAPS, Malformed, Volume};
use super::layout::Layout;
use super::open::{again, gone, malformed, replay, told, with_bases};
use super::origins::Origins;
use super::state::State;
use super::tail::{read_after, read_tail, snapshots, walk};
use crate::store::{Entry, Store};
use std::collections::HashSet;
use std::time::SystemTime;
use ublk_core::error::{Error, ErrorKind, Result};

/// Which of its states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// A snapshot.
    Snapshot(String),
    /// What was stored then, by the store's clock.
    Time(SystemTime),
}

/// How often the opening begins again because a writer changes the volume meanwhile.
const TRIES: u32 = 100;

/// The size of the disk as it was.
pub async fn size(origins: &Origins, info: &Volume, at: &At) -> Result<u64> {
    if let At::Snapshot(name) = at {
        let tail = read_tail(origins.own(), info.begin(), None).await?;
        return snapshots(&tail).get(name).map(|found| found.size).ok_or_else(|| no_snapshot(name));
    }
    let state = open(origins, info, Layout::new(0), at).await?;
    Ok(state.blocks * BLOCK)
}

/// The state of the disk as it was.
pub async fn open(origins: &Origins, info: &Volume, layout: Layout, at: &At) -> Result<State> {
    let store = origins.own();
    for _ in 0..TRIES {
        let (from, until) = match at {
            At::Snapshot(name) => {
                let tail = read_tail(store, info.begin(), None).await?;
                let found = snapshots(&tail).get(name).cloned().ok_or_else(|| no_snapshot(name))?;
                (found.map, Some(found.at))
            }
            At::Time(time) => place(&**store, info.begin(), *time).await?,
        };
        // Nothing after the map.
        let until = until.or(from);
        let Some(tail) = read_after(store, from, info.begin(), until).await? else { continue };
        if until.is_some_and(|until| tail.end != until.next()) {
            if let At::Snapshot(name) = at {
                return Err(gone(&**store, name));
            }
            continue;
        }
        let state = replay(info, layout.clone(), &with_bases(origins, info, tail).await?);
        if matches!(at, At::Time(_)) {
            is_whole(&**store, &state).await?;
        }
        return Ok(state);
    }
    Err(Error::new(ErrorKind::Backend, format!("{} changes too quickly", store.name())))
}

/// The map with which to begin, and the last object that was stored then with all before it.
async fn place(store: &dyn Store, begin: LogId, time: SystemTime) -> Result<(Option<LogId>, Option<LogId>)> {
    let failed = |error| told(store, &error);
    let maps = again(|| store.list(MAPS, None)).await.map_err(failed)?;
    let was_there = |entry: &Entry| entry.changed.is_some_and(|changed| changed <= time);
    if maps.iter().any(|entry| entry.changed.is_none()) {
        return Err(malformed(store, MAPS, &Malformed("does not say when it was stored")));
    }
    let ids = |then: bool| {
        let maps = maps.iter().filter(move |entry| !then || was_there(entry));
        maps.filter_map(|entry| LogId::of_map_key(&entry.key))
    };
    let from = ids(true).max();
    let next = ids(false).filter(|id| from.is_none_or(|from| *id > from)).min();
    let after = from.map(LogId::key);
    let log = again(|| store.list(LOG, after.as_deref())).await.map_err(failed)?;
    let (counts, end) = walk(from.map_or(begin, LogId::next), &log);
    let lost = || Error::new(ErrorKind::NotFound, "what was stored then is not kept");
    if next.is_some_and(|next| end <= next) {
        return Err(lost().hint("retain says how long it is"));
    }
    let then: HashSet<_> =
        log.iter().filter(|entry| was_there(entry)).map(|entry| entry.key.as_str()).collect();
    let last = counts.iter().map(|(id, _)| *id).take_while(|id| then.contains(id.key().as_str())).last();
    if from.is_none() && last.is_none() {
        return Err(Error::new(ErrorKind::NotFound, "nothing was stored then"));
    }
    Ok((from, last))
}

/// Fails if something is not kept.
async fn is_whole(store: &dyn Store, state: &State) -> Result<()> {
    let log = again(|| store.list(LOG, None)).await.map_err(|error| told(store, &error))?;
    let there: HashSet<_> = log.iter().filter_map(|entry| LogId::of_key(&entry.key)).collect();
    let needed = state.all().filter(|(_, segment)| segment.live > 0 && state.is_own(segment.id));
    if needed.into_iter().any(|(_, segment)| !there.contains(&segment.id)) {
        return Err(Error::new(ErrorKind::NotFound, "what was stored then is not kept any more")
            .hint("retain says how long it is"));
    }
    Ok(())
}
