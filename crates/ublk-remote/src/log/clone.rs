//! Clones of snapshots, and the removal of snapshots, which must not break one.
//!
//! A clone is a volume of its own, whose first state is a snapshot of another one: it reads from that one's objects what it has not
//! written. Nothing is copied: the clone's `volume.json` says where the snapshot is.
//!
//! **Order.** A clone needs its snapshot for as long as it exists. Two processes may act at the same time: one makes the clone, and
//! the writer of the parent removes the snapshot, which no other process does. Each first stores what it is about to do, and then
//! reads what the other has stored:
//!
//! - The clone puts a *mark* beside the snapshot, then looks whether the snapshot is still there, and nobody is removing it. Only
//!   then it creates its `volume.json`, with which it is usable.
//! - The writer puts a record into its log that the snapshot is being removed, then looks for marks. If there is one, a record
//!   says that the snapshot stays; only if there is none, one says that it is removed, from which on its space may be used again.
//!
//! So of the two at least one sees the other. If both do, neither happens, and nothing is lost.
//!
//! **What a crash leaves.** A mark without a volume: it hinders a removal, so a removal looks whether the volume is there. A mark
//! may be deleted if it is not and the mark is [old](ABANDONED): a process creates the volume within [`IN_TIME`] of its mark, or not
//! at all. A removal that is not decided: the next server of the volume decides it. Until then no clone is made.

use super::changes::{append, no_snapshot};
use super::format::{Change, Mark, Parent, Snapshot, VOLUME, Volume as Info};
use super::open::{again, describe, gone, random_id, told};
use super::origins::Opener;
use super::tail::{read_tail, snapshots};
use super::volume::Volume;
use crate::store::{Created, Store, StoreErrorKind};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use ublk_core::error::{Error, ErrorKind, Result};

/// How long after its mark a clone may be created.
const IN_TIME: Duration = Duration::from_secs(10 * 60);
/// After how long a mark without a clone is nobody's.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// A snapshot of another volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneOf {
    /// The other volume.
    pub url: String,
    /// The snapshot's name.
    pub snapshot: String,
}

/// Makes a volume that begins with a snapshot of another, or finds the one that is there, which must have begun with it.
pub async fn create(own: &Arc<dyn Store>, url: &str, from: &CloneOf, opener: &Opener) -> Result<(Info, u64)> {
    let found = again(|| own.get(VOLUME, None)).await;
    match found {
        Ok(_) => return existing(&**own, from).await,
        Err(error) if error.kind == StoreErrorKind::NotFound => {}
        Err(error) => return Err(told(&**own, &error)),
    }
    if from.url.trim_end_matches('/') == url.trim_end_matches('/') {
        return Err(Error::invalid("a volume cannot be a clone of itself"));
    }
    let parent = opener(&from.url)?;
    let (its, _) = describe(&*parent).await?;
    let snapshot = usable(&parent, &its, from).await?;
    let id = random_id()?;
    let mark = Mark { url: url.to_owned(), volume: id.clone() };
    let (key, began) = (mark.key(&from.snapshot), Instant::now());
    let body = vec![Bytes::from(serde_json::to_vec(&mark).unwrap_or_default())];
    again(|| parent.create(&key, body.clone())).await.map_err(|error| told(&*parent, &error))?;
    let made = async {
        // Only now: see the order above.
        if usable(&parent, &its, from).await? != snapshot {
            return Err(gone(&*parent, &from.snapshot));
        }
        let Snapshot { at, map, size, .. } = snapshot.clone();
        let (url, name) = (from.url.clone(), from.snapshot.clone());
        let mut parents = its.parents.clone();
        parents.push(Parent { url, id: its.id.clone(), snapshot: name, at, map });
        let info = Info { format: Info::FORMAT, id: id.clone(), size, parents };
        let body = vec![Bytes::from(info.encode())];
        if began.elapsed() > IN_TIME {
            return Err(Error::new(ErrorKind::Timeout, "the clone could not be made in time"));
        }
        match again(|| own.create(VOLUME, body.clone())).await.map_err(|error| told(&**own, &error))? {
            Created::Won => Ok((info, size)),
            // Somebody else's, or ours, whose answer was lost.
            Created::Exists => existing(&**own, from).await,
        }
    };
    let made = made.await;
    if !matches!(&made, Ok((info, _)) if info.id == id) && ours_is_not_there(&**own, &id).await {
        let _ = parent.delete(vec![key]).await;
    }
    made
}

/// Whether it is certain that no volume with this id is there.
async fn ours_is_not_there(own: &dyn Store, id: &str) -> bool {
    // Another one is: then this one cannot come any more. If there is none, it may be on its way: the mark has to become old.
    describe(own).await.is_ok_and(|(info, _)| info.id != id)
}

/// The volume that is there, if it has begun with that snapshot.
async fn existing(own: &dyn Store, from: &CloneOf) -> Result<(Info, u64)> {
    let (info, size) = describe(own).await?;
    let same = |parent: &Parent| parent.url == from.url && parent.snapshot == from.snapshot;
    if info.parents.last().is_some_and(same) {
        return Ok((info, size));
    }
    let what = format!("the volume at {} is no clone of {}@{}", own.name(), from.url, from.snapshot);
    Err(Error::invalid(what))
}

/// A snapshot of which a clone can be made.
async fn usable(parent: &Arc<dyn Store>, its: &Info, from: &CloneOf) -> Result<Snapshot> {
    let tail = read_tail(parent, its.begin(), None).await?;
    let found = snapshots(&tail).get(&from.snapshot).cloned();
    let found = found.ok_or_else(|| no_snapshot(&from.snapshot))?;
    if found.removing {
        return Err(Error::new(ErrorKind::Busy, format!("the snapshot {} is being removed", from.snapshot)));
    }
    Ok(found)
}

/// Removes a snapshot, unless it has clones.
pub async fn remove(volume: &Volume, name: &str) -> Result<()> {
    volume.state().snapshots.get(name).ok_or_else(|| no_snapshot(name))?;
    refuse_clones(volume, name).await?;
    append(volume, |state| {
        let found = state.snapshots.get(name).ok_or_else(|| no_snapshot(name))?;
        if found.removing {
            return Err(Error::new(ErrorKind::Busy, format!("the snapshot {name} is being removed")));
        }
        Ok(Change::Removing { name: name.to_owned() })
    })
    .await?;
    decide(volume, name).await
}

/// Ends a removal that was begun.
async fn decide(volume: &Volume, name: &str) -> Result<()> {
    let name = name.to_owned();
    let refused = match refuse_clones(volume, &name).await {
        // Whether there is one is not known: the next server finds out.
        Err(error) if error.kind != ErrorKind::Busy => return Err(error),
        refused => refused,
    };
    let stays = refused.is_err();
    append(volume, |_| {
        let name = name.clone();
        Ok(if stays { Change::Stays { name } } else { Change::Removed { name } })
    })
    .await?;
    if !stays {
        volume.tidy.store(true, SeqCst);
        volume.stored.notify_one();
    }
    refused
}

/// Ends the removals that an earlier server has begun.
pub async fn finish_removals(volume: &Volume) {
    let undecided = volume.state().snapshots.all().into_iter().filter(|snapshot| snapshot.removing);
    for snapshot in undecided.collect::<Vec<_>>() {
        if let Err(error) = decide(volume, &snapshot.name).await {
            volume.report(format!("the snapshot {} stays: {}", snapshot.name, error.message));
        }
    }
}

/// Fails if a snapshot has clones.
async fn refuse_clones(volume: &Volume, name: &str) -> Result<()> {
    let store = &volume.store;
    let failed = |error: crate::store::StoreError| told(&**store, &error);
    let marks = again(|| store.list(&Mark::prefix(name), None)).await.map_err(failed)?;
    for entry in marks {
        let body = match again(|| store.get(&entry.key, None)).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => continue, // its clone was not made
            body => body.map_err(failed)?,
        };
        let busy = |what: String| Err(Error::new(ErrorKind::Busy, what));
        let Ok(mark) = serde_json::from_slice::<Mark>(&body) else {
            return busy(format!("{}/{} makes no sense", store.name(), entry.key));
        };
        let clone = (volume.opener)(&mark.url)?;
        match describe(&*clone).await {
            Ok((info, _)) if info.id == mark.volume => {
                return busy(format!("the snapshot {name} has a clone: {}", mark.url));
            }
            Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let old =
            |changed: SystemTime| SystemTime::now().duration_since(changed).is_ok_and(|age| age > ABANDONED);
        if !entry.changed.is_some_and(old) {
            return busy(format!("a clone of the snapshot {name} is being made: {}", mark.url));
        }
        again(|| store.delete(vec![entry.key.clone()])).await.map_err(failed)?;
    }
    Ok(())
}
