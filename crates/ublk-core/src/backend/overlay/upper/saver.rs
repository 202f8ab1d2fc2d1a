//! Saves on a thread of their own, which begins with the first and ends when there was nothing to do for a while. One save
//! answers everybody who asked before it began.

use super::medium::Medium;
use super::store::Store;
use crate::queue::Errno;
use crate::report::Reporter;
use std::io;
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long the thread waits for more.
const IDLE: Duration = Duration::from_millis(500);

/// Told how a save has ended, on the saves' thread.
pub type Saved = Box<dyn FnOnce(Result<(), Errno>) + Send>;

#[derive(Default)]
struct Work {
    waiting: Vec<Saved>,
    /// A save is due that nobody waits for.
    due: bool,
    /// No more are coming.
    ended: bool,
    thread: Option<JoinHandle<()>>,
    running: bool,
    /// Told of a failure that nobody waits for.
    reporter: Option<Reporter>,
}

/// See the [module](self).
#[derive(Default)]
pub struct Saver {
    work: Mutex<Work>,
    more: Condvar,
}

impl Saver {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives the errors of saves that nobody waits for.
    pub fn report_to(&self, reporter: Reporter) {
        self.work().reporter = Some(reporter);
    }

    /// Saves, and calls `saved` then.
    pub fn save<M: Medium>(self: &Arc<Self>, store: &Arc<Store<M>>, saved: Saved) {
        self.begin(store, |work| work.waiting.push(saved));
    }

    /// Saves some time, for nobody.
    pub fn save_soon<M: Medium>(self: &Arc<Self>, store: &Arc<Store<M>>) {
        if !self.work().due {
            self.begin(store, |work| work.due = true);
        }
    }

    fn begin<M: Medium>(self: &Arc<Self>, store: &Arc<Store<M>>, add: impl FnOnce(&mut Work)) {
        let mut work = self.work();
        add(&mut work);
        if work.running {
            drop(work);
            self.more.notify_one();
            return;
        }
        let (this, its) = (self.clone(), store.clone());
        match thread::Builder::new().name("overlay-save".into()).spawn(move || this.run(&its)) {
            Ok(thread) => (work.thread, work.running) = (Some(thread), true),
            Err(_) => {
                // Slower, but the request is answered rightly.
                let waiting = take(&mut work.waiting);
                work.due = false;
                drop(work);
                self.answer(waiting, store.save());
            }
        }
    }

    fn run<M: Medium>(&self, store: &Store<M>) {
        loop {
            let mut work = self.work();
            if work.waiting.is_empty() && !work.due && !work.ended {
                work = self.more.wait_timeout(work, IDLE).unwrap_or_else(PoisonError::into_inner).0;
            }
            if work.waiting.is_empty() && !work.due {
                work.running = false;
                return;
            }
            let waiting = take(&mut work.waiting);
            work.due = false;
            drop(work);
            self.answer(waiting, store.save());
        }
    }

    fn answer(&self, waiting: Vec<Saved>, saved: io::Result<()>) {
        let reporter = self.work().reporter.clone();
        if let (Err(error), [], Some(reporter)) = (&saved, &*waiting, reporter) {
            reporter
                .report(format!("what was written to the upper is not durable: it cannot be saved: {error}"));
        }
        let told = saved.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
        waiting.into_iter().for_each(|saved| saved(told));
    }

    /// Saves are asked for again after an [`end`](Self::end).
    pub fn begin_again(&self) {
        self.work().ended = false;
    }

    /// No more saves are asked for. Waits for those that were.
    pub fn end(&self) {
        let thread = {
            let mut work = self.work();
            work.ended = true;
            work.thread.take()
        };
        self.more.notify_all();
        // The last user may be an answer, on that very thread.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}
