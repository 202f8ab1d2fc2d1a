//! Diffs of disks that are written meanwhile.

mod endings;
mod instant;

use super::load::{SIZE, THREADS, all_of, is_of_one_instant, kinds, write_on};
use super::*;
use crate::backend::later::{Later, Waiting};
use crate::backend::{File as FileDisk, Overlay, Sink};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Instant;

/// A copy of the disk as it was at the checkpoint, to which a diff is applied.
struct Copy {
    disk: Vec<u8>,
    parts: Vec<Range<u64>>,
    unit: u64,
    pause: Duration,
    begun: Arc<AtomicBool>,
}

impl Copy {
    fn of(disk: Vec<u8>) -> Self {
        Self { disk, parts: Vec::new(), unit: BLOCK, pause: Duration::ZERO, begun: Arc::default() }
    }
}

impl Sink for Copy {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        assert_eq!(size, self.disk.len() as u64);
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.unit
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = offset..offset + data.len() as u64;
        assert!(!self.parts.iter().any(|part| part.start < range.end && range.start < part.end), "twice");
        self.parts.push(range);
        self.disk[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        self.begun.store(true, SeqCst);
        thread::sleep(self.pause);
        Ok(())
    }

    fn aside(&self) -> io::Result<File> {
        tempfile::tempfile()
    }
}

fn served<T>(disk: &Arc<Tracked>, ask: impl FnOnce() -> T + Send) -> T
where
    T: Send,
{
    let mut bench = Bench::new(disk.clone(), 1, 4096);
    thread::scope(|scope| {
        let asked = scope.spawn(ask);
        while !asked.is_finished() {
            bench.turn();
            thread::yield_now();
        }
        asked.join().unwrap()
    })
}

/// Lets all requests of a disk go on.
fn let_all_go(waiting: &Waiting) {
    for (completer, token, _) in waiting.lock().unwrap().drain(..) {
        completer.complete(token, 0);
    }
}

/// A disk whose requests wait until they are let go.
fn waiting_disk(below: Arc<dyn Backend>, dir: &Path) -> (Arc<Tracked>, Waiting) {
    let waiting = Waiting::default();
    let later = Arc::new(Later { disk: below, waiting: waiting.clone() });
    (Arc::new(Tracked::open(later, &dir.join("map"), false).unwrap()), waiting)
}

fn turn_for(bench: &mut Bench, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        bench.turn();
        thread::sleep(Duration::from_millis(1));
    }
}
