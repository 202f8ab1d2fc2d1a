//! A backend gets another file while its disk is in use.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ublk_core::backend::{
    Backend, Completer, Completion, CopyMode, Engine, Io, Op, Piece, Properties, Site, Slot, Step,
};
use ublk_core::claim::Place;
use ublk_core::spec::Threads;
use ublk_core::{Result, Spec};
use ublk_kernel_tests::*;

const SIZE: u64 = 1 << 20;

/// Reads from the file that it got last.
struct Growing {
    first: fs::File,
    queues: Mutex<Vec<(Completer, Arc<Mutex<Slot>>)>>,
}

impl Growing {
    fn new(first: fs::File) -> Arc<Self> {
        Arc::new(Self { first, queues: Mutex::default() })
    }

    /// All queues use this file from now on. How many they are.
    fn add(&self, file: fs::File) -> usize {
        let file = Arc::new(file);
        let asked: Vec<_> = self
            .queues
            .lock()
            .unwrap()
            .iter()
            .map(|(queue, slot)| {
                let (file, slot) = (file.clone(), slot.clone());
                queue.ask(move |files| *slot.lock().unwrap() = files.add(file.as_fd()).unwrap())
            })
            .collect();
        for answer in &asked {
            answer.recv_timeout(PATIENCE).unwrap();
        }
        asked.len()
    }
}

impl Backend for Growing {
    fn properties(&self) -> Properties {
        Properties::new(SIZE)
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        vec![CopyMode::Zero, CopyMode::Copy]
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        site.spare_files(1);
        let slot = Arc::new(Mutex::new(site.file(self.first.as_fd())));
        self.queues.lock().unwrap().push((site.completer(), slot.clone()));
        Ok(Box::new(Reader(slot)))
    }
}

struct Reader(Arc<Mutex<Slot>>);

impl Engine for Reader {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        match piece.op {
            Op::Read => io.read_file(*self.0.lock().unwrap(), &piece, 0),
            _ => Step::Done(Err(libc::EOPNOTSUPP)),
        }
    }

    fn resume(&mut self, _: &mut Io<'_>, completion: Completion) -> Step {
        Step::Done(u32::try_from(completion.result).map_err(|_| -completion.result))
    }
}

fn file_of(content: u8) -> fs::File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![content; SIZE.try_into().unwrap()], 0).unwrap();
    file
}

#[test]
fn queues_that_are_idle_take_a_file_as_well_as_busy_ones() {
    for threads in [Threads::Own, Threads::Shared] {
        let backend = Growing::new(file_of(1));
        let spec = Spec { queues: 2, depth: 8, threads, ..Spec::default() };
        let disk = Disk::share(&spec, backend.clone());
        let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let reader = std::thread::spawn({
            let (file, over, done) = (disk.open(), over.clone(), done.clone());
            move || -> io::Result<u8> {
                let mut data = Aligned::new(4096);
                let mut last = 0;
                while !over.load(SeqCst) {
                    file.read_exact_at(&mut data, (done.fetch_add(1, SeqCst) * 4096) % SIZE)?;
                    assert!(data.iter().all(|byte| *byte == data[0]) && data[0] >= last);
                    last = data[0];
                }
                Ok(last)
            }
        });
        eventually("it is read", || done.load(SeqCst) > 100);
        assert_eq!(backend.add(file_of(2)), 2);
        let before = done.load(SeqCst);
        eventually("it is read on", || done.load(SeqCst) > before + 100);
        over.store(true, SeqCst);
        assert_eq!(reader.join().unwrap().unwrap(), 2);
        let mut data = Aligned::new(4096);
        disk.open().read_exact_at(&mut data, 0).unwrap();
        assert_eq!(data[..], [2; 4096]);
        disk.finish();
    }
}

#[test]
fn nobody_waits_for_a_queue_that_has_ended() {
    let backend = Growing::new(file_of(1));
    let disk = Disk::share(&Spec { depth: 4, ..Spec::default() }, backend.clone());
    disk.finish();
    let queues = std::mem::take(&mut *backend.queues.lock().unwrap());
    let answers: Vec<_> = queues.into_iter().map(|(queue, _)| queue.ask(|_| ())).collect();
    for answer in answers {
        assert!(answer.recv_timeout(Duration::from_secs(30)).is_err());
    }
}
