//! Fetches what no request has asked for yet: what somebody will want soon, and, at leisure, all the rest.

use super::Inner;
use super::chunks::{Plan, Use, Waiter};
use super::progress::Filling;
use crate::error::{Error, Result};
use crate::io_flusher::become_io_flusher;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that are asked for at a time: as much as chunks are large, or several small ones.
const SPAN: u64 = 1 << 20;
/// How many such parts are under way at a time.
const WINDOW: usize = 4;
/// The longest that the fill waits while requests are waiting for the source.
const YIELD: Duration = Duration::from_secs(1);
/// The first and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often it looks whether it still goes on.
const LOOK: Duration = Duration::from_millis(10);

/// What the fill is doing.
#[derive(Clone, Default)]
pub struct State(Arc<AtomicU8>);

const STATES: [Filling; 5] =
    [Filling::Off, Filling::Running, Filling::Waiting, Filling::Complete, Filling::Full];

impl State {
    pub fn now(&self) -> Filling {
        STATES.get(usize::from(self.0.load(SeqCst))).copied().unwrap_or_default()
    }

    fn set(&self, state: Filling) {
        let at = (0..).zip(STATES).find(|(_, other)| *other == state).map_or(0, |(at, _)| at);
        self.0.store(at, SeqCst);
    }
}

/// The thread that fills a disk, if it was started.
#[derive(Default)]
pub struct Background {
    state: State,
    ending: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Background {
    pub(super) fn state(&self) -> State {
        self.state.clone()
    }

    pub(super) fn start(&self, disk: Weak<Inner>, rate: Option<u64>) -> Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() {
            return Err(Error::invalid("the disk is being filled already"));
        }
        let fill = Fill { disk, rate, state: self.state.clone(), ending: self.ending.clone() };
        self.state.set(Filling::Running);
        *self.ending.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        let started = std::thread::Builder::new()
            .name("ublk-fill".into())
            .stack_size(256 << 10)
            .spawn(move || {
                let _ = become_io_flusher(); // as the filler
                fill.run();
            })
            .map_err(|error| Error::system("cannot start the thread that fills the disk", &error))?;
        *thread = Some(started);
        Ok(())
    }

    /// Ends it, and waits for that.
    pub(super) fn end(&self) {
        *self.ending.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ending.1.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join(); // a panic was printed
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

struct Fill {
    disk: Weak<Inner>,
    /// Bytes a second.
    rate: Option<u64>,
    state: State,
    ending: Arc<(Mutex<bool>, Condvar)>,
}

impl Fill {
    fn run(&self) {
        let (mut from, mut pause) = (0, PAUSES.0);
        while let Some(range) = self.next(from) {
            let (began, end) = (Instant::now(), range.end);
            let bytes = self.bytes(&range);
            match bring(&self.disk, range, &|| self.ended()) {
                Ok(()) => {
                    (from, pause) = (end, PAUSES.0);
                    let due = self.rate.map_or(Duration::ZERO, |rate| {
                        Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
                    });
                    if self.sleep(due.saturating_sub(began.elapsed())) {
                        return;
                    }
                }
                Err(_) => {
                    self.state.set(Filling::Waiting);
                    if self.sleep(pause) {
                        return;
                    }
                    pause = (pause * 2).min(PAUSES.1);
                    self.state.set(Filling::Running);
                }
            }
        }
    }

    /// The next missing chunks to be fetched, once no request waits for the source; `None`: it is over.
    fn next(&self, from: u64) -> Option<Range<u64>> {
        let until = Instant::now() + YIELD;
        while self.disk.upgrade()?.chunks.is_wanted() && Instant::now() < until {
            if self.sleep(LOOK) {
                return None;
            }
        }
        if self.ended() {
            return None;
        }
        let disk = self.disk.upgrade()?;
        let chunks = &disk.chunks;
        let Some(first) = chunks.missing(from).or_else(|| chunks.missing(0)) else {
            self.state.set(Filling::Complete);
            return None;
        };
        let span = (self.rate.map_or(SPAN * WINDOW as u64, |rate| rate / 4).min(SPAN * WINDOW as u64)
            / chunks.map.chunk())
        .max(1);
        let end = chunks.map.next(first).unwrap_or(chunks.count()).min(first + span).min(chunks.count());
        let free = chunks.free();
        if free == 0 {
            self.state.set(Filling::Full);
            return None;
        }
        Some(first..end.min(first.saturating_add(free)))
    }

    fn bytes(&self, range: &Range<u64>) -> u64 {
        self.disk.upgrade().map_or(0, |disk| disk.chunks.bytes(range).1)
    }

    fn ended(&self) -> bool {
        *self.ending.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has to end.
    fn sleep(&self, duration: Duration) -> bool {
        let ended = self.ending.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended || duration.is_zero() {
            return *ended;
        }
        let ended = self.ending.1.wait_timeout_while(ended, duration, |ended| !*ended);
        *ended.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Fetches what is missing of some chunks, and waits for it. Fails with the first error, or if it is cancelled.
pub fn bring(disk: &Weak<Inner>, chunks: Range<u64>, cancelled: &dyn Fn() -> bool) -> io::Result<()> {
    let gone = || io::Error::from_raw_os_error(libc::ENODEV);
    let (sender, told) = channel();
    let waiter = Waiter::Thread(sender);
    let (mut from, mut under_way, mut failed) = (chunks.start, 0, None);
    loop {
        // Only a little ahead. Each part reports whenever it waits for something.
        while from < chunks.end && under_way < WINDOW && failed.is_none() {
            let inner = disk.upgrade().ok_or_else(gone)?;
            let most = inner.chunks.room.as_ref().map_or(u64::MAX, super::Room::most_at_once);
            let span = (SPAN / inner.chunks.map.chunk()).min(most / WINDOW as u64).max(1);
            let part = from..chunks.end.min(from + span);
            let (offset, length) = inner.chunks.bytes(&part);
            from = part.end;
            match inner.chunks.plan(offset, length, Use::Read, &waiter) {
                Plan::Go(_) => {}
                Plan::Wait { times, fetch } => {
                    under_way += times as usize;
                    fetch.into_iter().for_each(|range| inner.fetch(range, false));
                }
                Plan::Lost | Plan::Full | Plan::Evict(_) | Plan::Failed(_) => {
                    failed = Some(libc::EIO);
                }
            }
        }
        if under_way == 0 {
            return failed.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)));
        }
        if cancelled() {
            return Err(io::Error::from_raw_os_error(libc::ECANCELED));
        }
        match told.recv_timeout(LOOK) {
            Ok(result) => {
                under_way -= 1;
                if result < 0 {
                    failed = failed.or(Some(-result));
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if disk.upgrade().is_none_or(|disk| disk.chunks.closing.load(SeqCst)) {
                    return Err(gone());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
        }
    }
}
