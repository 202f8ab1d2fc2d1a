//! A chain of images while queues are served: the mapper's thread, and what it is asked for.

use super::chain::Layer;
use super::mapper::{Clear, Mapper, Shared};
use super::scratch::Scratch;
use super::table::Table;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use ublk_core::Reporter;
use ublk_core::backend::{Completer, Token};
use ublk_core::error::{Error, ErrorKind, Result};

/// What the mapper is asked for.
pub struct Job {
    pub what: What,
    pub answer: Answer,
}

pub enum What {
    /// To say in the table where the clusters of a range are.
    LookUp(Range<u64>),
    /// To give them places that can be written to.
    Allocate(Range<u64>),
    Clear(Clear),
    /// To make everything durable.
    Flush,
}

/// Resumes the call that asked: with an I/O error if it is dropped.
pub struct Answer {
    completer: Completer,
    token: Token,
    result: i32,
}

impl Answer {
    pub fn new(completer: Completer, token: Token) -> Self {
        Self { completer, token, result: -libc::EIO }
    }

    fn is(mut self, outcome: &io::Result<()>) {
        self.result = match outcome {
            Ok(()) => 0,
            Err(error) => -errno(error),
        };
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.completer.complete(self.token, self.result);
    }
}

/// The error number of a request.
fn errno(error: &io::Error) -> i32 {
    match error.raw_os_error() {
        Some(errno @ 1..4096) => errno,
        _ => libc::EIO,
    }
}

/// See the [module](self).
pub struct Session {
    pub shared: Arc<Shared>,
    /// The file with the copies of clusters.
    pub scratch: Arc<File>,
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

/// How many jobs are done together.
const BATCH: usize = 256;

impl Session {
    /// Opens the images and starts the mapper.
    pub fn begin(layers: Arc<Vec<Layer>>, writable: bool, through: bool, reporter: Reporter) -> Result<Self> {
        let name = layers[0].path.display().to_string();
        let failed = |error: &io::Error| {
            Error::system(format!("cannot open {name}"), error)
                .kind(ErrorKind::Backend)
                .hint("qemu-img check says whether it is damaged")
        };
        let Some(header) = &layers[0].header else {
            return Err(failed(&io::ErrorKind::InvalidInput.into()));
        };
        let unit = 1 << header.cluster_bits;
        let table = Table::new(header.size, header.cluster_bits).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("{name} has too many clusters"))
                .hint("qemu-img convert -o cluster_size=64k makes an image with larger ones")
        })?;
        let shared = Arc::new(Shared::new(table));
        let scratch = Scratch::new(unit).map_err(|error| failed(&error))?;
        let scratch_file = scratch.file().clone();
        let (jobs, received) = channel();
        let (opened, is_open) = channel();
        let with = shared.clone();
        let thread = std::thread::Builder::new().name("ublk-qcow2".into()).spawn(move || {
            let _ = ublk_core::become_io_flusher();
            let mapper = catch_unwind(|| Mapper::open(&layers, writable, through, scratch));
            let mapper = mapper.unwrap_or_else(|_| Err(io::Error::other("imago has failed")));
            match mapper {
                Ok(mapper) => {
                    let _ = opened.send(Ok(()));
                    work(mapper, &with, &received, &reporter)
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    Ok(())
                }
            }
        });
        let thread = thread.map_err(|error| failed(&error))?;
        match is_open.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&io::Error::other("its thread has failed"))),
        }
        let (jobs, thread) = (Mutex::new(Some(jobs)), Mutex::new(Some(thread)));
        Ok(Self { shared, scratch: scratch_file, jobs, thread })
    }

    /// Asks the mapper. If it has ended, the job fails.
    pub fn ask(&self, job: Job) {
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = jobs.send(job);
        }
    }

    /// Makes everything durable, and ends the mapper.
    pub fn end(&self) -> io::Result<()> {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        match self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread has failed"))),
        }
    }
}

/// Does what is asked, until nobody can ask any more.
fn work(mut mapper: Mapper, shared: &Shared, jobs: &Receiver<Job>, reporter: &Reporter) -> io::Result<()> {
    let mut batch = Vec::new();
    while let Ok(job) = jobs.recv() {
        batch.push(job);
        batch.extend(jobs.try_iter().take(BATCH - 1));
        // What imago has in memory may be wrong after a panic: it must not get into the file.
        let done = catch_unwind(AssertUnwindSafe(|| do_all(&mut mapper, shared, &mut batch, reporter)));
        if done.is_err() {
            reporter.report(
                "imago has failed: the disk's requests that need new mappings fail from now on".into(),
            );
            std::mem::forget(mapper);
            batch.clear();
            while jobs.recv().is_ok() {} // each fails when it is dropped
            return Err(io::Error::other("imago has failed"));
        }
    }
    if mapper.image().order().is_none() { Ok(()) } else { mapper.flush(shared) }
}

fn do_all(mapper: &mut Mapper, shared: &Shared, batch: &mut Vec<Job>, reporter: &Reporter) {
    let told = |outcome: io::Result<()>| {
        if let Err(error) = &outcome
            && error.raw_os_error().is_none()
        {
            reporter.report(format!("a request fails: {error}"));
        }
        outcome
    };
    let (mut allocated, mut flushes, mut clears, mut cleared) = (vec![], vec![], vec![], vec![]);
    for Job { what, answer } in batch.drain(..) {
        match what {
            What::LookUp(range) => answer.is(&told(mapper.look_up(range, shared))),
            What::Allocate(range) => match told(mapper.allocate(range, shared)) {
                Ok(()) => allocated.push(answer),
                error => answer.is(&error),
            },
            What::Flush => flushes.push(answer),
            What::Clear(clear) => {
                clears.push(clear);
                cleared.push(answer);
            }
        }
    }
    let outcome = told(mapper.after_allocations(shared));
    allocated.into_iter().for_each(|answer| answer.is(&outcome));
    if !clears.is_empty() {
        match mapper.clear(&clears, shared) {
            Ok(outcomes) => {
                cleared.into_iter().zip(outcomes).for_each(|(answer, outcome)| answer.is(&told(outcome)));
            }
            Err(error) => {
                let outcome = told(Err(error));
                cleared.into_iter().for_each(|answer| answer.is(&outcome));
            }
        }
    }
    if !flushes.is_empty() {
        let outcome = told(mapper.flush(shared));
        flushes.into_iter().for_each(|answer| answer.is(&outcome));
    }
}
