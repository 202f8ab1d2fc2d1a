//! What is done to an overlay in the background: one thing at a time, for as long as the disk is served.

use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How often a pause looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// How often one who waits for its end looks.
const PAUSE: Duration = Duration::from_millis(2);

struct Reading<'a>(&'a AtomicBool);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// How far a flatten, or a commit, has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlattenProgress {
    /// Up to where the upper, or the base, has all of the disk, in bytes.
    pub done: u64,
    /// Of the disk, in bytes.
    pub size: u64,
}

impl FlattenProgress {
    pub(crate) fn new(done: u64, size: u64) -> Self {
        Self { done, size }
    }
}

/// See the [module](self).
#[derive(Default)]
pub struct Job {
    running: Mutex<()>,
    /// What the disk is, as a participle.
    what: Mutex<&'static str>,
    /// It reads the base, and changes nothing until it has looked whether it `has_ended`.
    reads: AtomicBool,
    /// The disk is not served any more.
    ended: AtomicBool,
    ending: (Mutex<()>, Condvar),
    /// Of the present one. A size of 0: there is none.
    done: AtomicU64,
    size: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    /// The disk is being `flattened`, or something else. Nothing else begins until the guard is dropped, and nothing does while
    /// the disk is not served: its files may be another server's by then.
    pub fn begin(&self, what: &'static str) -> Result<MutexGuard<'_, ()>> {
        let guard = match self.running.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let what = *locked(&self.what);
                let hint = match what {
                    "flattened" => "wait until that has ended, or end it: what was copied stays",
                    "committed" => "wait until that has ended, or end it: commit it again later then",
                    _ => "wait until that has ended",
                };
                return Err(Error::new(ErrorKind::Busy, format!("the disk is being {what}")).hint(hint));
            }
        };
        // With the guard: who ends it sees the guard, or this sees the end.
        if self.has_ended() {
            return Err(Error::new(
                ErrorKind::Closed,
                format!("the disk is not served, so it is not {what}"),
            )
            .hint("try again when it is served"));
        }
        *locked(&self.what) = what;
        Ok(guard)
    }

    /// Whether it has to end.
    pub fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// The disk is served again.
    pub fn go_on(&self) {
        self.ended.store(false, SeqCst);
    }

    /// The disk is not served any more: what is under way ends soon.
    pub fn stop(&self) {
        self.ended.store(true, SeqCst);
        drop(locked(&self.ending.0));
        self.ending.1.notify_all();
    }

    /// The same, and waits for that: no longer than `patience` if it waits for a base that does not answer, since it changes
    /// nothing when the base has answered.
    pub fn end(&self, patience: Duration) {
        self.stop();
        let until = Instant::now() + patience;
        while !(self.is_over() || self.reads.load(SeqCst) && Instant::now() >= until) {
            std::thread::sleep(PAUSE);
        }
    }

    fn is_over(&self) -> bool {
        !matches!(self.running.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Ends what is under way, while the disk is served.
    ///
    /// # Errors
    /// Busy: it has not ended after `patience`, and goes on.
    pub fn interrupt(&self, patience: Duration) -> Result<()> {
        self.stop();
        let until = Instant::now() + patience;
        while !self.is_over() && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
        let over = self.is_over();
        self.go_on();
        if over {
            return Ok(());
        }
        let message = format!("the disk is being {}, and that does not end", *locked(&self.what));
        Err(Error::new(ErrorKind::Busy, message)
            .hint("try again when it has: what it waits for is the disk's base or storage"))
    }

    /// Reads the base: others need not wait for that.
    pub fn reading<T>(&self, read: impl FnOnce() -> T) -> T {
        self.reads.store(true, SeqCst);
        let _reading = Reading(&self.reads);
        read()
    }

    /// Pauses, unless it `has_ended` or is given up.
    pub fn pause(&self, duration: Duration, given_up: &dyn Fn() -> bool) {
        let until = Instant::now() + duration;
        let mut ending = locked(&self.ending.0);
        while !self.has_ended() && !given_up() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.ending.1.wait_timeout(ending, left.min(LOOK));
            ending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells how far what is done has come until the guard is dropped.
    pub fn progressing(&self, what: &'static str) -> impl Drop + '_ {
        debug_assert_eq!(*locked(&self.what), what, "it was begun");
        struct Progressing<'a>(&'a Job);
        impl Drop for Progressing<'_> {
            fn drop(&mut self) {
                self.0.is_at(0, 0);
            }
        }
        Progressing(self)
    }

    /// It has come so far, of that.
    pub fn is_at(&self, done: u64, size: u64) {
        self.done.store(done, SeqCst);
        self.size.store(size, SeqCst);
    }

    /// How far that has come, if it is what is done.
    pub fn progress(&self, what: &str) -> Option<FlattenProgress> {
        let (size, done) = (self.size.load(SeqCst), self.done.load(SeqCst));
        (size > 0 && *locked(&self.what) == what).then_some(FlattenProgress { done: done.min(size), size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_base_that_does_not_answer_but_for_what_is_written() {
        let (job, short) = (Job::default(), Duration::from_millis(20));
        let (answer, answered) = std::sync::mpsc::channel::<()>();
        let answered = Mutex::new(answered);
        std::thread::scope(|scope| {
            let flatten = scope.spawn(|| {
                let _guard = job.begin("flattened").unwrap();
                let answered = answered.lock().unwrap();
                job.reading(|| answered.recv().unwrap());
                let ended = job.has_ended();
                answered.recv().unwrap();
                ended
            });
            while !job.reads.load(SeqCst) {
                std::thread::yield_now();
            }
            let error = job.interrupt(short).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Busy);
            assert_eq!(error.message, "the disk is being flattened, and that does not end");
            assert!(!job.has_ended(), "it goes on after a hand-over that was refused");
            let error = job.begin("reset").unwrap_err();
            assert_eq!(error.message, "the disk is being flattened");
            job.end(short);
            answer.send(()).unwrap();
            // It writes now.
            while job.reads.load(SeqCst) {
                std::thread::yield_now();
            }
            let ending = scope.spawn(|| job.end(short));
            std::thread::sleep(short * 5);
            assert!(!ending.is_finished());
            answer.send(()).unwrap();
            ending.join().unwrap();
            assert!(flatten.join().unwrap(), "it changes nothing after the end");
        });
        let error = job.begin("reset").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Closed);
        assert_eq!(error.message, "the disk is not served, so it is not reset");
        job.go_on();
        assert!(job.begin("reset").is_ok());
    }
}
