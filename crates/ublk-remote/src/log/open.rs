//! Opening a volume: finds the end of its log, puts a fence there, and takes up what this machine had not stored.
//!
//! **One writer.** Whoever opens a volume creates a fence at the first free place of the newest epoch. The store lets one create
//! it. From then on the earlier writer cannot store anything that counts: its next segment finds the fence in its place, and what
//! it had sent for later places is behind the fence, where nobody looks. If somebody else was faster, this looks again.
//!
//! **What was not stored.** An earlier server of this machine may have answered writes that are only in its local file. Its notes
//! say which. They become the first segments of the new epoch, if nobody else has opened the volume since: then the log ends
//! exactly where they begin.

use super::format::{
    BLOCK, Change, Extent, Fence, Kind, LEAST_SEGMENT, LOG, LogId, MAPS, Malformed, Object, Record, SIZES,
    StoredMap, VOLUME, Volume,
};
use super::layout::Layout;
use super::notes::{Left, Noted};
use super::origins::Origins;
use super::snapshots::Snapshots;
use super::state::State;
use super::tail::{Logged, Tail, read_after, read_object, read_tail};
use crate::store::{Created, Store, StoreError, StoreErrorKind};
use bytes::Bytes;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use ublk_core::error::{Error, ErrorKind, Result};

/// How often a call is tried, and the pause after the first failure, which doubles.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);

/// An error of a store, told to whoever opens a volume.
pub fn told(store: &dyn Store, error: &StoreError) -> Error {
    Error::new(ErrorKind::Backend, format!("{}: {}", store.name(), error.message))
}

pub(super) fn malformed(store: &dyn Store, key: &str, error: &Malformed) -> Error {
    Error::new(ErrorKind::Backend, format!("{}/{key} {error}", store.name()))
}

/// Tries a call again that may work later.
pub async fn again<T, F>(mut call: impl FnMut() -> F) -> std::result::Result<T, StoreError>
where
    F: Future<Output = std::result::Result<T, StoreError>>,
{
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match call().await {
            Err(error) if error.kind == StoreErrorKind::Unavailable => {}
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    call().await
}

/// What a volume is, and how many bytes its disk has.
pub async fn describe(store: &dyn Store) -> Result<(Volume, u64)> {
    let (bytes, sizes) = tokio::join!(again(|| store.get(VOLUME, None)), again(|| store.list(SIZES, None)));
    let bytes = bytes.map_err(|error| match error.kind {
        StoreErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no volume at {}", store.name()))
                .hint("with a size, it is made")
        }
        _ => told(store, &error),
    })?;
    let volume = Volume::decode(&bytes).map_err(|error| malformed(store, VOLUME, &error))?;
    let sizes = sizes.map_err(|error| told(store, &error))?;
    let newest = sizes.iter().filter_map(|entry| LogId::of_size_key(&entry.key)).max();
    let size = newest.map_or(volume.size, |(_, size)| size);
    if size == 0 || !size.is_multiple_of(BLOCK) {
        return Err(malformed(store, SIZES, &Malformed("has an impossible size")));
    }
    Ok((volume, size))
}

/// Makes a volume, or finds the one that is there.
pub async fn create(store: &dyn Store, size: u64) -> Result<(Volume, u64)> {
    let volume = Volume { format: Volume::FORMAT, id: random_id()?, size, parents: Vec::new() };
    let body = vec![Bytes::from(volume.encode())];
    match again(|| store.create(VOLUME, body.clone())).await.map_err(|error| told(store, &error))? {
        Created::Won => Ok((volume, size)),
        Created::Exists => describe(store).await,
    }
}

/// Whether anything was ever written to a volume.
pub async fn has_content(store: &dyn Store) -> Result<bool> {
    let failed = |error: StoreError| told(store, &error);
    if !again(|| store.list(MAPS, None)).await.map_err(failed)?.is_empty() {
        return Ok(true);
    }
    let log = again(|| store.list(LOG, None)).await.map_err(failed)?;
    Ok(log.iter().any(|entry| entry.size >= LEAST_SEGMENT))
}

/// 32 digits that nobody else has.
pub fn random_id() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    let text = text.map_err(|error| Error::system("cannot get a random number", &error))?;
    Ok(text.trim().replace('-', ""))
}

/// Who opened the volume last, as the log says.
fn last_opener(tail: &Tail) -> Option<&(LogId, Fence)> {
    tail.fences.last()
}

/// What an earlier server of this machine did not store, and may be stored now.
///
/// # Errors
/// Somebody else has opened the volume since.
async fn unstored(store: &dyn Store, tail: &Tail, left: &Left) -> Result<Vec<Noted>> {
    let owner = &left.owner;
    let of = |from: LogId| left.segments.iter().filter(move |noted| noted.sequence >= from.sequence).cloned();
    if owner.epoch == tail.end.epoch {
        return Ok(of(tail.end).collect());
    }
    // Where its epoch ended.
    let at = match tail.fences.iter().find(|(id, _)| id.epoch == owner.epoch) {
        Some((id, _)) => *id,
        None => {
            let prefix = format!("{LOG}{:08x}/", owner.epoch);
            let list = again(|| store.list(&prefix, None)).await.map_err(|error| told(store, &error))?;
            let fence = list.iter().find(|entry| entry.size < LEAST_SEGMENT);
            fence.and_then(|entry| LogId::of_key(&entry.key)).unwrap_or_default()
        }
    };
    let rest: Vec<_> = of(at).collect();
    // It was about to open the next epoch, or did, and nothing was stored since.
    let newest = tail.log.iter().map(|logged| logged.id().epoch).chain([tail.map.at.epoch]).max();
    let by_us = newest.is_none_or(|newest| newest <= owner.epoch)
        && last_opener(tail).is_some_and(|(_, fence)| fence.writer == owner.next);
    if rest.is_empty() || by_us {
        return Ok(rest);
    }
    let since = last_opener(tail).map_or(String::new(), |(_, fence)| format!(", {}", who(fence)));
    let bytes: u64 =
        rest.iter().flat_map(|noted| &noted.extents).map(|extent| u64::from(extent.blocks) * BLOCK).sum();
    Err(Error::new(
        ErrorKind::Backend,
        format!("the cache has {bytes} bytes that were never stored, and somebody has opened the volume since{since}"),
    )
    .hint("both cannot count: to go on without these bytes, use another cache"))
}

/// Who opened a volume, and when.
pub fn who(fence: &Fence) -> String {
    let ago = UNIX_EPOCH + Duration::from_secs(fence.time);
    let ago = SystemTime::now().duration_since(ago).map_or(0, |ago| ago.as_secs());
    format!("process {} on {}, {ago} s ago", fence.pid, fence.host)
}

/// A volume that this process may write from here on.
pub struct Opened {
    /// Its state, with nothing in the local file.
    pub state: State,
    /// What was not stored, to be taken up.
    pub unstored: Vec<Noted>,
    /// The epoch.
    pub epoch: u32,
}

/// Takes a volume for `writer`. `left`: the notes of an earlier server. `announce`: writes into them who comes next. `newest`: the
/// place of the newest map, if that is known; it may be old.
pub async fn take(
    origins: &Origins,
    info: &Volume,
    writer: &str,
    layout: Layout,
    left: Option<&Left>,
    announce: impl Fn() -> std::io::Result<()>,
    mut newest: Option<Option<LogId>>,
) -> Result<Opened> {
    let store = origins.own();
    loop {
        let tail = read_tail(store, info.begin(), newest.take()).await?;
        let unstored = match left {
            Some(left) => unstored(&**store, &tail, left).await?,
            None => Vec::new(),
        };
        if left.is_some() {
            announce().map_err(|error| Error::system("cannot write the cache's notes", &error))?;
        }
        let epoch = tail.end.epoch + 1;
        let host = nix_hostname();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let fence = Fence { epoch, writer: writer.to_owned(), host, pid: std::process::id(), time };
        let (key, body) = (tail.end.key(), vec![Bytes::from(fence.encode())]);
        let created = again(|| store.create(&key, body.clone())).await;
        let won = match created.map_err(|error| told(&**store, &error))? {
            Created::Won => true,
            // The answer to an earlier try may have been lost.
            Created::Exists => {
                matches!(read_object(&**store, tail.end).await?, Object::Fence(found) if found == fence)
            }
        };
        if won {
            let next = LogId { epoch, sequence: 0 };
            let mut state = replay(info, layout, &with_bases(origins, info, tail).await?);
            state.begin_epoch(next);
            return Ok(Opened { state, unstored, epoch });
        }
    }
}

/// The logs of a clone and of those that it needs, the farthest first: as long as it has no map of its own, it begins with the
/// snapshot.
pub async fn with_bases(origins: &Origins, info: &Volume, own: Tail) -> Result<Vec<Tail>> {
    let mut tails = vec![own];
    for (number, parent) in info.parents.iter().enumerate().rev() {
        if tails[0].from.is_some() {
            break;
        }
        let Some(store) = origins.parent(number) else { break };
        let before = number.checked_sub(1).and_then(|number| info.parents.get(number));
        let begin =
            before.map_or(LogId::default(), |before| LogId { epoch: before.at.epoch + 1, sequence: 0 });
        let tail = read_after(store, parent.map, begin, Some(parent.at)).await?;
        let whole = tail.filter(|tail| tail.end == parent.at.next());
        let tail = whole.ok_or_else(|| gone(&**store, &parent.snapshot))?;
        tails.insert(0, tail);
    }
    Ok(tails)
}

/// A snapshot is not where it was.
pub fn gone(store: &dyn Store, name: &str) -> Error {
    let what = format!("the snapshot {name} of the volume at {} is gone", store.name());
    Error::new(ErrorKind::NotFound, what)
}

/// The state of a disk as its log says, which comes after those of the volumes whose clone it is.
pub fn replay(info: &Volume, layout: Layout, tails: &[Tail]) -> State {
    let mut state = State::new(info.size / BLOCK, layout);
    state.begin = info.begin();
    for (at, tail) in tails.iter().enumerate() {
        let own = at + 1 == tails.len();
        if own {
            state.stored_map = tail.from;
            state.snapshots = Snapshots::new(&tail.map.rest.snapshots);
        }
        begin_with(&mut state, &tail.map, own);
        for logged in &tail.log {
            let blocks = go_on_with(&mut state, logged, own);
            state.since_map.0 += u32::from(own);
            state.since_map.1 += if own { blocks } else { 0 };
        }
    }
    state
}

/// Takes up a stored map.
fn begin_with(state: &mut State, map: &StoredMap, own: bool) {
    if map.rest.size > 0 {
        state.blocks = map.rest.size / BLOCK;
        state.map.resize(state.blocks);
    }
    let listed = map.segments.iter();
    let numbers: Vec<_> =
        listed.map(|listed| state.add(listed.id, listed.header, listed.blocks, true)).collect();
    for run in &map.runs {
        let number = numbers[run.segment as usize];
        let (block, blocks, place) = (run.block, run.blocks, run.place);
        state.apply(number, &Extent { block, blocks, place, kind: Kind::Data });
    }
    if own {
        for kept in &map.rest.kept {
            if state.number(kept.listed.id).is_none() {
                state.keep(kept);
            }
        }
    }
}

/// Takes up what comes next in the log. Returns its blocks of data.
fn go_on_with(state: &mut State, logged: &Logged, own: bool) -> u64 {
    match logged {
        Logged::Segment(segment) => {
            let number = state.add(segment.id, segment.header, segment.blocks, true);
            segment.extents.iter().for_each(|extent| state.apply(number, extent));
            segment.blocks.into()
        }
        Logged::Record(record) => {
            let number = state.add(record.id, Record::BLOCKS, 0, true);
            // What another volume's snapshots are is its own affair.
            if own || matches!(record.change, Change::Size { .. }) {
                state.take_record(number, &record.change);
            }
            0
        }
    }
}

fn nix_hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "?".into(), |name| name.trim().to_owned())
}
