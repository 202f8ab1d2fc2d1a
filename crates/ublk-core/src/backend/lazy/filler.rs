//! The thread that brings what was fetched into the storage, and keeps the map: the blocking work of a lazy disk.

use super::chunks::{Chunks, Waiter};
use crate::backend::Storage;
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::become_io_flusher;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// After how long without work it saves unasked.
const QUIET: Duration = Duration::from_secs(5);

/// After how long a job that found no room is tried again without another job. The source may have failed meanwhile.
const AGAIN: Duration = Duration::from_millis(10);

pub enum Job {
    /// Brings fetched data into the storage.
    Store { chunks: Range<u64>, data: Vec<u8> },
    /// Makes data and map durable, in this order, and tells.
    Save(Waiter),
    /// Evicts chunks until this number fits in, and reports it.
    Evict(u64, Waiter),
    /// Checks whether there is something to save.
    Look,
    /// Makes them durable, and ends.
    Close,
    /// Ends at once: another process may use the files from then on.
    Leave,
}

/// The thread's handle.
pub struct Filler {
    jobs: Sender<Job>,
    chunks: Arc<Chunks>,
    thread: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

impl Filler {
    pub fn start(chunks: Arc<Chunks>, storage: Arc<dyn Storage>) -> Result<Self> {
        let ((jobs, todo), own) = (channel(), chunks.clone());
        let thread = std::thread::Builder::new()
            .name("ublk-filler".into())
            .stack_size(256 << 10)
            .spawn(move || run(&todo, &own, &*storage))
            .map_err(|error| Error::system("cannot start the filler's thread", &error))?;
        Ok(Self { jobs, chunks, thread: Mutex::new(Some(thread)) })
    }

    /// Where its jobs go.
    pub fn jobs(&self) -> &Sender<Job> {
        &self.jobs
    }

    /// Waits until all jobs are done and durable, and returns whether that succeeded. Later fills fail.
    pub fn close(&self) -> io::Result<()> {
        self.end(Job::Close)
    }

    /// Ends without saving what is only noted in the page cache. Later fills fail.
    pub fn leave(&self) {
        let _ = self.end(Job::Leave); // a panic was printed
    }

    fn end(&self, how: Job) -> io::Result<()> {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        self.chunks.closing.store(true, SeqCst);
        let _ = self.jobs.send(how); // closed before: nothing is left to do
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the filler's thread panicked")))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = self.close(); // close() reports its result; dropping does not
    }
}

fn run(todo: &Receiver<Job>, chunks: &Chunks, storage: &dyn Storage) -> io::Result<()> {
    // What it allocates must not wait for the disk it fills. Without that it is as safe as any other program.
    let _ = become_io_flusher();
    let save = || {
        // After a panic the save is as good as failed, but did not record that.
        caught(|| chunks.save(storage)).inspect_err(|error| {
            if chunks.map.is_kept() && !chunks.map.failed() {
                chunks.failed(error);
            }
        })
    };
    // What found no room, but will when others were fetched.
    let mut later = Vec::new();
    loop {
        let job = match (chunks.watch(), later.is_empty()) {
            (_, false) => todo.recv_timeout(AGAIN),
            (true, true) => todo.recv_timeout(QUIET),
            (false, true) => todo.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let due = std::mem::take(&mut later);
        match job {
            Ok(job @ (Job::Store { .. } | Job::Evict(..))) => later.extend(find_room(chunks, storage, job)),
            Ok(Job::Save(waiter)) => waiter.tell(save().map_or_else(|error| -errno_of(&error), |()| 0)),
            Ok(Job::Look) => {}
            // Failures are reported to the owner.
            Err(RecvTimeoutError::Timeout) if due.is_empty() => drop(save()),
            Err(RecvTimeoutError::Timeout) => {}
            end @ (Ok(Job::Close | Job::Leave) | Err(RecvTimeoutError::Disconnected)) => {
                due.into_iter().for_each(|job| refuse(chunks, job, libc::EIO));
                return if matches!(end, Ok(Job::Close)) { save() } else { Ok(()) };
            }
        }
        later.extend(due.into_iter().filter_map(|job| find_room(chunks, storage, job)));
    }
}

/// Does a job that needs room in a bounded cache; returns it if it has to wait for others.
fn find_room(chunks: &Chunks, storage: &dyn Storage, job: Job) -> Option<Job> {
    let found = caught(|| match &job {
        Job::Store { chunks: range, .. } => chunks.make_room(storage, range.clone()),
        Job::Evict(count, _) => chunks.evict_for(storage, *count),
        Job::Save(_) | Job::Look | Job::Close | Job::Leave => Ok(()),
    });
    match (found, job) {
        (Err(error), job) if errno_of(&error) == libc::EAGAIN => return Some(job),
        (Err(error), job) => refuse(chunks, job, errno_of(&error)),
        (Ok(()), Job::Store { chunks: range, data }) => {
            let ((offset, _), epoch) = (chunks.bytes(&range), chunks.epoch());
            match caught(|| storage.store(offset, &data)) {
                // The requests that wait for it are woken in any case.
                Ok(()) => drop(chunks.complete(&range.collect::<Vec<_>>(), false, epoch)),
                Err(error) => chunks.abandon(range, -errno_of(&error)),
            }
        }
        (Ok(()), Job::Evict(_, waiter)) => waiter.tell(0),
        (Ok(()), Job::Save(_) | Job::Look | Job::Close | Job::Leave) => {}
    }
    None
}

/// There is no room for what a job needs.
fn refuse(chunks: &Chunks, job: Job, errno: i32) {
    match job {
        Job::Store { chunks: range, .. } => chunks.give_up(range, -errno),
        Job::Evict(_, waiter) => waiter.tell(-errno),
        Job::Save(_) | Job::Look | Job::Close | Job::Leave => {}
    }
}

/// Turns a panic into an I/O error, since requests wait for the answer.
fn caught(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)))
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Data that a lazy disk wants. Dropped without an answer, the requests that wait for it fail.
pub struct Fill {
    chunks: Arc<Chunks>,
    jobs: Sender<Job>,
    range: Range<u64>,
    /// Whether a request waits for it.
    wanted: bool,
}

impl Fill {
    pub(super) fn new(chunks: &Arc<Chunks>, jobs: &Sender<Job>, range: Range<u64>, wanted: bool) -> Self {
        chunks.counters.asked();
        chunks.wanted.fetch_add(usize::from(wanted), SeqCst);
        Self { chunks: chunks.clone(), jobs: jobs.clone(), range, wanted }
    }

    /// From where on the disk, in bytes.
    pub fn offset(&self) -> u64 {
        self.chunks.bytes(&self.range).0
    }

    /// How much, in bytes.
    pub fn length(&self) -> u64 {
        self.chunks.bytes(&self.range).1
    }

    /// Whether a request waits for it. Otherwise it is fetched in advance, although a request may come to wait for it.
    pub fn is_wanted(&self) -> bool {
        self.wanted
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
        self.chunks.counters.given(data.len() as u64);
        if self.jobs.send(Job::Store { chunks: chunks.clone(), data }).is_err() {
            self.range = chunks; // the disk is deleted: drop fails the requests that still wait
        }
        Ok(())
    }

    /// Answers with an error number, positive.
    pub fn fail(mut self, errno: i32) {
        let range = self.take();
        self.chunks.counters.failed();
        self.chunks.give_up(range, -errno.clamp(1, 4095));
    }

    /// Tells the disk's owner of an error.
    pub fn report(&self, message: String) {
        self.chunks.report(message);
    }

    fn take(&mut self) -> Range<u64> {
        std::mem::replace(&mut self.range, 0..0)
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.chunks.wanted.fetch_sub(usize::from(self.wanted), SeqCst);
        let range = self.take();
        if !range.is_empty() {
            self.chunks.counters.failed();
            self.chunks.give_up(range, -libc::EIO);
        }
    }
}
