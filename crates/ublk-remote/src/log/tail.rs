//! The end of a volume's log, as it is read before the volume is served.

use super::format::{
    Fence, LEAST_SEGMENT, LOG, LogId, MAPS, MOST_HEADER, Malformed, Object, Record, Segment, StoredMap,
};
use super::open::{again, malformed, told};
use super::snapshots::Snapshots;
use crate::store::{Entry, Store, StoreError, StoreErrorKind};
use std::sync::Arc;
use tokio::task::JoinSet;
use ublk_core::error::{ErrorKind, Result};

/// Bytes of a segment that are asked for at first: most headers are shorter.
const FIRST: u64 = 16 << 10;
/// How many headers are asked for at a time.
const AT_ONCE: usize = 64;

/// What stands in a log, but for its fences.
#[derive(Debug)]
pub enum Logged {
    /// Data.
    Segment(Segment),
    /// A change of the volume.
    Record(Record),
}

impl Logged {
    pub(super) fn id(&self) -> LogId {
        match self {
            Self::Segment(segment) => segment.id,
            Self::Record(record) => record.id,
        }
    }
}

/// The end of a log, and what counts of it.
#[derive(Debug)]
pub struct Tail {
    /// The map with which it begins.
    pub map: StoredMap,
    /// Its place in the log; none: the log begins with the volume.
    pub from: Option<LogId>,
    /// What stands after it.
    pub log: Vec<Logged>,
    /// The fences after it.
    pub(super) fences: Vec<(LogId, Fence)>,
    /// The first free place.
    pub end: LogId,
}

/// Which objects count of those that a list has, and the first free place.
pub(super) fn walk(after: LogId, objects: &[Entry]) -> (Vec<(LogId, bool)>, LogId) {
    let mut end = after;
    let mut counts = Vec::new();
    for entry in objects {
        if LogId::of_key(&entry.key) != Some(end) {
            continue; // behind a fence or a gap, or not of the log
        }
        let fence = entry.size < LEAST_SEGMENT;
        counts.push((end, fence));
        end = if fence { LogId { epoch: end.epoch + 1, sequence: 0 } } else { end.next() };
    }
    (counts, end)
}

/// The place of a volume's newest map.
pub async fn newest_map(store: &Arc<dyn Store>) -> Result<Option<LogId>> {
    let maps = again(|| store.list(MAPS, None)).await.map_err(|error| told(&**store, &error))?;
    Ok(maps.iter().filter_map(|entry| LogId::of_map_key(&entry.key)).max())
}

/// Reads the log of a volume after its newest map. `begin`: where the log begins. `newest`: the place of the newest map, if that is
/// known; it may be old.
///
/// **Order.** A writer stores a map, and then deletes segments up to it. So a list of the log after a map has no gap but at its
/// end only if there is no newer map after the list was made. Else a place in the middle would look like the end, and a fence
/// there would fence nobody.
pub async fn read_tail(
    store: &Arc<dyn Store>,
    begin: LogId,
    mut newest: Option<Option<LogId>>,
) -> Result<Tail> {
    loop {
        let from = match newest.take() {
            Some(from) => from,
            None => newest_map(store).await?,
        };
        let Some(listed) = list_after(store, from, begin, None).await? else { continue };
        let (tail, now) = tokio::join!(read(store, listed), newest_map(store));
        let now = now?;
        if now != from {
            newest = Some(now);
        } else if let Some(tail) = tail? {
            return Ok(tail);
        }
    }
}

/// A map, and what stands after it in the log.
struct Listed {
    map: StoredMap,
    from: Option<LogId>,
    /// Each of which is a fence, or is not.
    counts: Vec<(LogId, bool)>,
    end: LogId,
}

/// Reads the log of a volume after a map, up to its end, or up to a place in it. `None`: some of it was not there any more.
pub async fn read_after(
    store: &Arc<dyn Store>,
    from: Option<LogId>,
    begin: LogId,
    until: Option<LogId>,
) -> Result<Option<Tail>> {
    match list_after(store, from, begin, until).await? {
        Some(listed) => read(store, listed).await,
        None => Ok(None),
    }
}

/// Reads a map, and lists the log after it. `None`: the map is not there any more.
async fn list_after(
    store: &Arc<dyn Store>,
    from: Option<LogId>,
    begin: LogId,
    until: Option<LogId>,
) -> Result<Option<Listed>> {
    let failed = |error: StoreError| told(&**store, &error);
    let (map, mut objects) = match from {
        None => (StoredMap::default(), again(|| store.list(LOG, None)).await.map_err(failed)?),
        Some(at) => {
            let (key, after) = (at.map_key(), at.key());
            let (bytes, objects) =
                tokio::join!(again(|| store.get(&key, None)), again(|| store.list(LOG, Some(&after))));
            if matches!(&bytes, Err(error) if error.kind == StoreErrorKind::NotFound) {
                return Ok(None);
            }
            let bytes = bytes.map_err(failed)?;
            let map = StoredMap::decode(&bytes).map_err(|error| malformed(&**store, &key, &error))?;
            (map, objects.map_err(failed)?)
        }
    };
    if let Some(until) = until {
        objects.retain(|entry| entry.key <= until.key());
    }
    let (counts, end) = walk(from.map_or(begin, LogId::next), &objects);
    Ok(Some(Listed { map, from, counts, end }))
}

/// Reads what was listed. `None`: some of it was not there any more.
async fn read(store: &Arc<dyn Store>, listed: Listed) -> Result<Option<Tail>> {
    let Listed { map, from, counts, end } = listed;
    let (mut log, mut fences) = (Vec::new(), Vec::new());
    for part in counts.chunks(AT_ONCE) {
        let mut reads = JoinSet::new();
        for (at, (id, _)) in part.iter().enumerate() {
            let (store, id) = (store.clone(), *id);
            reads.spawn(async move { (at, read_object(&*store, id).await) });
        }
        let mut read: Vec<_> = reads.join_all().await;
        read.sort_by_key(|(at, _)| *at);
        for ((id, is_fence), (_, object)) in part.iter().zip(read) {
            match object {
                Ok(Object::Segment(segment)) if segment.id == *id && !is_fence => {
                    log.push(Logged::Segment(segment));
                }
                Ok(Object::Record(record)) if record.id == *id && !is_fence => {
                    log.push(Logged::Record(record));
                }
                Ok(Object::Fence(fence)) if fence.epoch == id.epoch + 1 && *is_fence => {
                    fences.push((*id, fence));
                }
                Ok(_) => {
                    let wrong = Malformed("is not what belongs there");
                    return Err(malformed(&**store, &id.key(), &wrong));
                }
                // Its space was used again since the list was made: there is a newer map.
                Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(Tail { map, from, log, fences, end }))
}

/// The snapshots of a volume, as its log says.
pub fn snapshots(tail: &Tail) -> Snapshots {
    let mut snapshots = Snapshots::new(&tail.map.rest.snapshots);
    for logged in &tail.log {
        if let Logged::Record(record) = logged {
            snapshots.apply(record.id, &record.change);
        }
    }
    snapshots
}

/// Reads the header of an object of the log.
pub async fn read_object(store: &dyn Store, id: LogId) -> Result<Object> {
    let key = id.key();
    let get = |length: u64| again(move || store.get(&id.key(), Some(0..length)));
    let failed = |error: StoreError| match error.kind {
        StoreErrorKind::NotFound => told(store, &error).kind(ErrorKind::NotFound),
        _ => told(store, &error),
    };
    let bytes = get(FIRST).await.map_err(failed)?;
    let decoded = |bytes: &[u8]| Object::decode(bytes).map_err(|error| malformed(store, &key, &error));
    match decoded(&bytes)? {
        Ok(object) => Ok(object),
        Err(length) => {
            let bytes = get(length.min(MOST_HEADER)).await.map_err(failed)?;
            decoded(&bytes)?.map_err(|_| malformed(store, &key, &Malformed("is cut short")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_without_a_gap_and_before_a_fence_counts() {
        let object =
            |epoch, sequence, size| Entry { key: LogId { epoch, sequence }.key(), size, changed: None };
        let id = |epoch, sequence| LogId { epoch, sequence };
        assert_eq!(walk(id(0, 0), &[]), (vec![], id(0, 0)));
        let log = [
            object(0, 0, 100),
            object(1, 0, 8192),
            object(1, 1, 8192),
            object(1, 2, 200),
            object(1, 3, 8192),
            object(2, 0, 8192),
            object(2, 2, 8192),
            object(2, 3, 100),
            object(3, 0, 8192),
        ];
        let counts =
            vec![(id(0, 0), true), (id(1, 0), false), (id(1, 1), false), (id(1, 2), true), (id(2, 0), false)];
        assert_eq!(walk(id(0, 0), &log), (counts.clone(), id(2, 1)));
        assert_eq!(walk(id(1, 1), &log[3..]), (vec![], id(1, 1)));
        assert_eq!(walk(id(1, 1), &log[2..]), (counts[2..].to_vec(), id(2, 1)));
    }
}
