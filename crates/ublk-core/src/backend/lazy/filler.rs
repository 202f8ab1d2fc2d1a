//! The thread that brings what was fetched into the storage, and keeps the map: the blocking work of a lazy disk.

use super::chunks::{Chunks, Waiter};
use crate::backend::Storage;
use crate::device::become_io_flusher;
use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub enum Job {
    /// Brings fetched data into the storage.
    Store { chunks: Range<u64>, data: Vec<u8> },
    /// Makes data and map durable, in this order, and tells.
    Save(Waiter),
    /// Makes them durable, and ends.
    Close,
}

/// The thread's handle.
pub struct Filler {
    jobs: Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Filler {
    pub fn start(chunks: Arc<Chunks>, storage: Arc<dyn Storage>) -> Result<Self> {
        let (jobs, todo) = channel();
        let thread = std::thread::Builder::new()
            .name("ublk-filler".into())
            .stack_size(256 << 10)
            .spawn(move || run(&todo, &chunks, &*storage))
            .map_err(|error| Error::system("cannot start the filler's thread", &error))?;
        Ok(Self { jobs, thread: Mutex::new(Some(thread)) })
    }

    /// Where its jobs go.
    pub fn jobs(&self) -> &Sender<Job> {
        &self.jobs
    }

    /// Waits until all is done and durable. Fills that come later fail.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = self.jobs.send(Job::Close); // gone already: as well
            let _ = thread.join(); // it catches its panics
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(todo: &Receiver<Job>, chunks: &Chunks, storage: &dyn Storage) {
    // What it allocates must not wait for the disk it fills. Without that it is as safe as any other program.
    let _ = become_io_flusher();
    while let Ok(job) = todo.recv() {
        match job {
            Job::Store { chunks: range, data } => {
                let (offset, _) = chunks.bytes(&range);
                let result = errno_of(|| storage.store(offset, &data));
                chunks.finish(range, result == 0, result);
            }
            Job::Save(waiter) => waiter.tell(errno_of(|| save(chunks, storage))),
            Job::Close => {
                // Nobody is left to tell. What was not saved is fetched again.
                let _ = errno_of(|| save(chunks, storage));
                return;
            }
        }
    }
}

fn save(chunks: &Chunks, storage: &dyn Storage) -> std::io::Result<()> {
    chunks.map.save(|| storage.sync())
}

/// 0 or a negative error number. A panic is an I/O error like another: requests wait for the answer.
fn errno_of(work: impl FnOnce() -> std::io::Result<()>) -> i32 {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => -error.raw_os_error().unwrap_or(libc::EIO),
        Err(_) => -libc::EIO,
    }
}

/// Data that a lazy disk wants. Dropped without an answer, the requests that wait for it fail.
pub struct Fill {
    chunks: Arc<Chunks>,
    jobs: Sender<Job>,
    range: Range<u64>,
}

impl Fill {
    pub(super) fn new(chunks: &Arc<Chunks>, jobs: &Sender<Job>, range: Range<u64>) -> Self {
        Self { chunks: chunks.clone(), jobs: jobs.clone(), range }
    }

    /// From where on the disk, in bytes.
    pub fn offset(&self) -> u64 {
        self.chunks.bytes(&self.range).0
    }

    /// How much, in bytes.
    pub fn length(&self) -> u64 {
        self.chunks.bytes(&self.range).1
    }

    /// Answers with the data, all of it.
    pub fn supply(mut self, data: Vec<u8>) -> Result<()> {
        if data.len() as u64 != self.length() {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("{} bytes were fetched, not the {} that were asked for", data.len(), self.length()),
            ));
        }
        let chunks = self.take();
        if self.jobs.send(Job::Store { chunks: chunks.clone(), data }).is_err() {
            self.range = chunks; // the disk is gone: whoever still waits is told by drop
        }
        Ok(())
    }

    /// Answers with an error number, positive.
    pub fn fail(mut self, errno: i32) {
        let range = self.take();
        self.chunks.finish(range, false, -errno.clamp(1, 4095));
    }

    fn take(&mut self) -> Range<u64> {
        std::mem::replace(&mut self.range, 0..0)
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let range = self.take();
        if !range.is_empty() {
            self.chunks.finish(range, false, -libc::EIO);
        }
    }
}
