//! Writes that keep a part of a block: the rest of it is put into the block's new place before.

use super::fetch::fetch;
use super::format::{BLOCK, BLOCK_LENGTH};
use super::state::{Found, Waiter, Writing};
use super::volume::Volume;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use ublk_core::backend::Storage;

/// A fill that is under way. Nobody may use its place before it has ended.
#[derive(Clone, Default)]
pub struct Filling(Arc<Mutex<Fate>>);

#[derive(Default)]
struct Fate {
    ended: bool,
    orphaned: bool,
}

impl Filling {
    /// Fills the first block of a write, the last one, or both, and tells the waiter.
    pub fn start(
        volume: &Arc<Volume>,
        writing: Writing,
        (first, last): (bool, bool),
        waiter: Waiter,
        handle: &Handle,
    ) -> Self {
        let (filling, volume, own) = (Self::default(), volume.clone(), handle.clone());
        let fate = filling.0.clone();
        handle.spawn(async move {
            let end = writing.blocks - 1;
            let mut result = 0;
            for block in
                [first.then_some(0), (last && (end > 0 || !first)).then_some(end)].into_iter().flatten()
            {
                if result == 0 {
                    result = fill(&volume, &writing, block, &own).await.map_or_else(|errno| -errno, |()| 0);
                }
            }
            let mut fate = fate.lock().unwrap_or_else(PoisonError::into_inner);
            fate.ended = true;
            if fate.orphaned {
                volume.abandon(&writing);
            }
            drop(fate);
            waiter(result);
        });
        filling
    }

    /// Its request is gone: the write is given up when the fill has ended.
    pub fn orphan(&self, volume: &Volume, writing: &Writing) {
        let mut fate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fate.orphaned = true;
        if fate.ended {
            volume.abandon(writing);
        }
    }
}

async fn fill(volume: &Arc<Volume>, writing: &Writing, block: u32, handle: &Handle) -> Result<(), i32> {
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let data = read(volume, writing.block + u64::from(block), handle).await?;
    let at = writing.offset() + u64::from(block) * BLOCK;
    volume.with_files(|| volume.data.store(at, &data)).map_err(errno)
}

/// What a block has. Nobody changes it meanwhile.
async fn read(volume: &Arc<Volume>, block: u64, handle: &Handle) -> Result<Vec<u8>, i32> {
    loop {
        let mut found = Vec::new();
        volume.find(block, 1, &mut found)?;
        match found.first().map(|(.., found)| *found) {
            Some(Found::At(offset, pin)) => {
                let data = volume.load(offset, BLOCK_LENGTH);
                volume.unpin([pin].into_iter());
                return data.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
            }
            Some(Found::Missing(key)) => {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let waiter: Waiter = Box::new(move |result| {
                    let _ = sender.send(result);
                });
                fetch(volume, vec![(key, waiter)], handle);
                let result = receiver.await.unwrap_or(-libc::EIO);
                if result < 0 {
                    return Err(-result);
                }
            }
            Some(Found::Zero) | None => return Ok(vec![0; BLOCK_LENGTH]),
        }
    }
}
