//! Changes of a served volume that are no writes: each is a record in its log, which counts where it stands.

use super::collect::store_map;
use super::format::{BLOCK, Change, LogId, SIZES};
use super::open::told;
use super::snapshots::is_name;
use super::state::{Refused, State, Waiter};
use super::upload::put;
use super::volume::Volume;
use crate::store::StoreError;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use ublk_core::error::{Error, ErrorKind, Result};

/// There is none of that name.
pub fn no_snapshot(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no snapshot {name}"))
}

fn stopped() -> Error {
    Error::new(ErrorKind::Backend, "the disk has stopped")
}

/// Has this server store a map, if it has not yet: a snapshot begins with it. What a fenced writer still deletes is before it.
pub async fn prepare_snapshot(volume: &Arc<Volume>, name: &str) -> Result<()> {
    if !is_name(name) {
        return Err(Error::invalid(format!("{name:?} is no name of a snapshot"))
            .hint("letters, digits, -, _ and . make one, but . not at its beginning"));
    }
    if volume.state().snapshots.get(name).is_some() {
        return Err(Error::new(ErrorKind::Backend, format!("there is a snapshot {name} already")));
    }
    let is_own = |state: &State| state.stored_map.is_some_and(|map| map.epoch == state.next_id().epoch);
    if is_own(&volume.state()) {
        return Ok(());
    }
    append(volume, |_| Ok(Change::Nothing)).await?;
    let failed = |why: String| Error::new(ErrorKind::Backend, format!("{}: {why}", volume.store.name()));
    match store_map(volume, &mut true).await {
        Err(why) if !is_own(&volume.state()) => Err(failed(why)),
        _ => Ok(()),
    }
}

/// Makes a snapshot of all that was answered before; what begins afterwards is not in it. Once all up to the order that is returned
/// is stored, it is there. It was [prepared](prepare_snapshot), and only one thread at a time does this.
pub fn make_snapshot(volume: &Volume, name: &str) -> Result<u64> {
    let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let made = u64::try_from(made).unwrap_or(u64::MAX);
    let mut state = volume.state();
    let (map, size) = (state.stored_map, state.blocks * BLOCK);
    let placed = state.record(Change::Made { name: name.to_owned(), map, made, size });
    drop(state);
    let (_, order) = placed.map_err(|_| stopped())?;
    volume.work.notify_one();
    Ok(order)
}

/// Puts a record into the log of a volume, and waits until it is stored. `change`: decides, while nothing else changes.
pub async fn append(volume: &Volume, change: impl Fn(&State) -> Result<Change>) -> Result<LogId> {
    let (id, order) = loop {
        let receiver = {
            let mut state = volume.state();
            let change = change(&state)?;
            match state.record(change) {
                Ok(placed) => break placed,
                Err(Refused::Stopped(_)) => return Err(stopped()),
                Err(why) => {
                    let (waiter, receiver) = waiting();
                    state.wait_for(why, waiter);
                    receiver
                }
            }
        };
        volume.work.notify_one();
        if receiver.await.is_ok_and(|result| result < 0) {
            return Err(stopped());
        }
    };
    wait_until_stored(volume, order).await?;
    Ok(id)
}

/// Waits until all up to an order is in the store.
pub async fn wait_until_stored(volume: &Volume, order: u64) -> Result<()> {
    let (waiter, receiver) = waiting();
    let told = volume.state().wait_until_stored(order, waiter);
    let result = match told {
        Some((_, result)) => result,
        None => {
            volume.work.notify_one();
            receiver.await.unwrap_or(-libc::EIO)
        }
    };
    if result < 0 {
        return Err(stopped());
    }
    Ok(())
}

fn waiting() -> (Waiter, oneshot::Receiver<i32>) {
    let (sender, receiver) = oneshot::channel();
    let waiter = Box::new(move |result| {
        let _ = sender.send(result);
    });
    (waiter, receiver)
}

/// Gives the disk another size. The log has it first, so that it is in the order of the writes; then a small object, which decides for
/// the next process that opens the volume.
pub async fn set_size(volume: &Arc<Volume>, size: u64) -> Result<()> {
    let before = volume.size();
    if size < before {
        volume.set_size(size); // nobody begins to write there any more
    }
    let placed = append(volume, |_| Ok(Change::Size { size })).await;
    let id = placed.inspect_err(|_| volume.set_size(before))?;
    let store = &volume.store;
    let failed = |error: StoreError| told(&**store, &error);
    put(volume, &id.size_key(size), Bytes::from_static(b"\n")).await.map_err(failed)?;
    volume.set_size(size);
    // Those before do not count any more.
    if let Ok(all) = store.list(SIZES, None).await {
        let old = all.into_iter().map(|entry| entry.key).filter(|key| *key < id.size_key(0)).collect();
        let _ = store.delete(old).await;
    }
    Ok(())
}
