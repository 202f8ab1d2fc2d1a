//! Snapshots of a disk that is in use, on the real kernel: one instant for all queues, and back to it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use ublk_core::backend::{File, Overlay};
use ublk_core::{Bound, Spec};
use ublk_kernel_tests::system::sparse;
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// Blocks of a chain of writes.
const LENGTH: u64 = 64;
/// Chains, each with two clients that take turns.
const CHAINS: u64 = 3;

fn base(dir: &Path) -> Arc<File> {
    let path = dir.join("base");
    if !path.exists() {
        sparse(&path, 16 * MIB);
    }
    Arc::new(File::open(&path, true, false).unwrap())
}

fn overlay(dir: &Path, upper: &str, read_only: bool) -> Overlay {
    Overlay::in_file(base(dir), &dir.join(upper), None, read_only).unwrap()
}

/// Writes of growing numbers, each begun after the one before was answered, in turn by a client on either CPU.
#[derive(Default)]
struct Chain {
    /// The number of the last write that was answered.
    answered: Mutex<u64>,
    next: Condvar,
}

impl Chain {
    fn write(&self, disk: &fs::File, start: u64, own: u64, over: &AtomicBool) {
        let mut answered = self.answered.lock().unwrap();
        loop {
            while *answered % 2 != own {
                if over.load(SeqCst) {
                    return;
                }
                answered = self.next.wait_timeout(answered, Duration::from_millis(100)).unwrap().0;
            }
            if over.load(SeqCst) {
                return;
            }
            let number = *answered + 1;
            let mut data = Aligned::new(BLOCK as usize);
            data[..8].copy_from_slice(&number.to_le_bytes());
            data[BLOCK as usize - 8..].copy_from_slice(&number.to_le_bytes());
            disk.write_all_at(&data, start + number % LENGTH * BLOCK).unwrap();
            *answered = number;
            self.next.notify_all();
        }
    }

    fn answered(&self) -> u64 {
        *self.answered.lock().unwrap()
    }
}

/// The number of the last write of a chain that a disk has; panics if it does not have all before that, or has later ones.
fn last(disk: &fs::File, start: u64) -> u64 {
    let mut numbers = Vec::new();
    for block in 0..LENGTH {
        let mut data = Aligned::new(BLOCK as usize);
        disk.read_exact_at(&mut data, start + block * BLOCK).unwrap();
        let number = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
        assert_eq!(number(0), number(BLOCK as usize - 8), "a part of a write");
        numbers.push(number(0));
    }
    let last = *numbers.iter().max().unwrap();
    for (block, number) in (0..).zip(&numbers) {
        let expected = if block > last { 0 } else { last - (last - block) % LENGTH };
        assert_eq!(*number, expected, "block {block} of a disk that has write {last}");
    }
    last
}

#[test]
fn a_snapshot_is_one_instant_for_all_queues() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = Spec { queues: 2, depth: 64, ..Spec::default() };
    let disk = Disk::start(&spec, overlay(dir.path(), "upper", false));
    let (over, chains) =
        (Arc::new(AtomicBool::new(false)), Arc::new([(); CHAINS as usize].map(|()| Chain::default())));
    let starts: Vec<_> = (0..CHAINS).map(|chain| chain * LENGTH * BLOCK).collect();
    let mut clients = Vec::new();
    for (at, start) in starts.iter().copied().enumerate() {
        for (own, cpu) in cpus().into_iter().cycle().take(2).enumerate() {
            let (file, over, chains) = (disk.open(), over.clone(), chains.clone());
            clients.push(on_cpu(cpu, move || chains[at].write(&file, start, own as u64, &over)));
        }
    }
    // A reader that never waits for longer than it would without snapshots, or so: printed only.
    let slowest = Arc::new(AtomicU64::new(0));
    let reader = std::thread::spawn({
        let (file, over, slowest) = (disk.open(), over.clone(), slowest.clone());
        move || {
            let mut data = Aligned::new(BLOCK as usize);
            while !over.load(SeqCst) {
                let began = Instant::now();
                file.read_exact_at(&mut data, 0).unwrap();
                slowest.fetch_max(began.elapsed().as_micros() as u64, SeqCst);
            }
        }
    });
    let mut taken = Vec::new();
    for number in 0..12 {
        let before: Vec<_> = chains.iter().map(Chain::answered).collect();
        eventually("writes go on", || {
            chains.iter().zip(&before).all(|(chain, at)| chain.answered() > at + 20)
        });
        let before: Vec<_> = chains.iter().map(Chain::answered).collect();
        let name = format!("at{number}");
        disk.device().snapshot(&name).unwrap();
        let after: Vec<_> = chains.iter().map(Chain::answered).collect();
        taken.push((name, before, after));
    }
    over.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    reader.join().unwrap();
    println!("the slowest read during 12 snapshots took {} µs", slowest.load(SeqCst));
    assert_eq!(disk.device().layers().unwrap().len(), 13);
    let (open, ends): (_, Vec<_>) = (disk.open(), chains.iter().map(Chain::answered).collect());
    assert_eq!(starts.iter().map(|start| last(&open, *start)).collect::<Vec<_>>(), ends);
    drop(open);
    disk.finish();
    for (name, before, after) in taken {
        let frozen = Disk::start(
            &Spec { read_only: true, ..Spec::default() },
            overlay(dir.path(), &format!("upper.{name}"), true),
        );
        let file = fs::File::open(frozen.path()).unwrap();
        for (at, start) in starts.iter().enumerate() {
            let last = last(&file, *start);
            // One more may have been in flight when the snapshot was asked for, and when it was done.
            assert!(before[at] <= last && last <= after[at] + 1, "{} to {}: {last}", before[at], after[at]);
        }
        drop(file);
        frozen.finish();
    }
    // The upper has what was written after the last one.
    let again = Disk::start(&Spec::default(), overlay(dir.path(), "upper", false));
    let open = again.open();
    assert_eq!(starts.iter().map(|start| last(&open, *start)).collect::<Vec<_>>(), ends);
    drop(open);
    again.finish();
}

#[test]
fn a_reset_leads_back_to_the_last_snapshot_while_clients_wait() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = Spec { queues: 2, depth: 16, ..Spec::default() };
    let disk = Disk::start(&spec, overlay(dir.path(), "upper", false));
    let file = disk.open();
    file.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
    disk.device().snapshot("one").unwrap();
    // Also what the kernel has in its buffers.
    let buffered = fs::OpenOptions::new().read(true).write(true).open(disk.path()).unwrap();
    buffered.write_all_at(&[2; 4096], 0).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let client = std::thread::spawn({
        let (file, over) = (disk.open(), over.clone());
        move || {
            let mut data = Aligned::new(4096);
            while !over.load(SeqCst) {
                file.read_exact_at(&mut data, 0).unwrap();
                assert!(data.iter().all(|byte| *byte == data[0] && (1..=2).contains(byte)));
            }
        }
    });
    disk.device().reset().unwrap();
    let mut data = [0; 4096];
    buffered.read_exact_at(&mut data, 0).unwrap();
    assert_eq!(data, [1; 4096]);
    over.store(true, SeqCst);
    client.join().unwrap();
    drop((buffered, file));
    disk.device().stop(true, &Bound::standard()).unwrap();
    let refused = disk.device().snapshot("two").unwrap_err();
    assert_eq!(refused.kind, ublk_core::ErrorKind::Closed, "{refused}");
    disk.finish();
    let again = Disk::start(&Spec::default(), overlay(dir.path(), "upper", false));
    let mut data = Aligned::new(4096);
    let file = again.open();
    file.read_exact_at(&mut data, 0).unwrap();
    assert_eq!(data[..], [1; 4096]);
    drop(file);
    again.finish();
}
