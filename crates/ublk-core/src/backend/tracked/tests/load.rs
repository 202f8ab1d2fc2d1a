//! Threads that write to a disk, and what a copy of it has of that.

use super::*;
use crate::backend::{File as FileDisk, Overlay, Stripe};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

pub const THREADS: u64 = 3;
/// Blocks that a thread writes to.
pub const REGION: u64 = 512;
pub const SIZE: u64 = THREADS * REGION * BLOCK;

/// A write by one of the threads, between two ticks of a clock. Each of its blocks has its value.
pub struct Write {
    pub blocks: Range<u64>,
    value: u64,
    began: u64,
    pub ended: u64,
}

/// A sequence that looks random.
pub fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Writes and zeroes blocks of its region until it is told to stop.
pub fn write_on(disk: Arc<Tracked>, region: u64, clock: &AtomicU64, stop: &AtomicBool) -> Vec<Write> {
    let mut bench = Bench::new(disk, 2, 1 << 16);
    let (mut writes, mut seed) = (Vec::new(), region + 1);
    while !stop.load(SeqCst) {
        let length = 1 + next(&mut seed) % 16;
        let start = region * REGION + next(&mut seed) % (REGION - length);
        let began = clock.fetch_add(1, SeqCst);
        let zeroes = next(&mut seed).is_multiple_of(8);
        let value = if zeroes { 0 } else { began };
        let op = if zeroes { Op::WriteZeroes } else { Op::Write };
        if !zeroes {
            for word in bench.buffer(0)[..(length * BLOCK) as usize].chunks_exact_mut(8) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        let mut outcome = bench.start(0, Descriptor::new(op, start * BLOCK, length * BLOCK));
        while outcome.is_none() {
            outcome = bench.turn().first().map(|(_, outcome)| *outcome);
            thread::yield_now();
        }
        assert!(outcome.is_some_and(|outcome| outcome.is_ok()));
        bench.turn(); // what other threads ask
        writes.push(Write { blocks: start..start + length, value, began, ended: clock.fetch_add(1, SeqCst) });
        thread::sleep(Duration::from_micros(next(&mut seed) % 50));
    }
    writes
}

/// The value of a block that is not torn.
pub fn value_of(disk: &[u8], block: u64) -> u64 {
    let block = &disk[(block * BLOCK) as usize..][..BLOCK as usize];
    let value = &block[..8];
    assert!(block.chunks_exact(8).all(|word| word == value), "a block is torn");
    u64::from_le_bytes(value.try_into().unwrap())
}

/// Checks that a disk is as it was at one instant: for each thread it has all of its writes up to one, and none of those
/// after it; and no write that it has began after one had ended that it lacks.
pub fn is_of_one_instant(disk: &[u8], base: &[u8], writes: &[Vec<Write>]) {
    let (mut last_in, mut first_out) = (0, u64::MAX);
    for (region, writes) in writes.iter().enumerate() {
        let first = region as u64 * REGION;
        let found: Vec<_> = (first..first + REGION).map(|block| value_of(disk, block)).collect();
        let mut state: Vec<_> = (first..first + REGION).map(|block| value_of(base, block)).collect();
        let mut counts = if state == found { vec![0] } else { vec![] };
        for (at, write) in writes.iter().enumerate() {
            state[(write.blocks.start - first) as usize..(write.blocks.end - first) as usize]
                .fill(write.value);
            if state == found {
                counts.push(at + 1);
            }
        }
        let (Some(least), Some(most)) = (counts.first(), counts.last()) else {
            panic!("thread {region} never had written that");
        };
        // Zeroes over zeroes change nothing: so there may be several counts.
        last_in = last_in.max(least.checked_sub(1).map_or(0, |at| writes[at].began));
        first_out = first_out.min(writes.get(*most).map_or(u64::MAX, |write| write.ended));
    }
    assert!(
        last_in < first_out,
        "a write that began at {last_in} is in, and one that ended at {first_out} is not"
    );
}

pub fn all_of(bench: &mut Bench) -> Vec<u8> {
    let mut content = Vec::new();
    while (content.len() as u64) < SIZE {
        let mut outcome = bench.start(0, Descriptor::new(Op::Read, content.len() as u64, 1 << 16));
        while outcome.is_none() {
            outcome = bench.turn().first().map(|(_, outcome)| *outcome);
        }
        assert_eq!(outcome, Some(Ok(1 << 16)));
        content.extend_from_slice(&bench.buffer(0)[..1 << 16]);
    }
    content
}

/// Every kind of disk that stores data natively.
pub fn kinds(dir: &Path) -> Vec<(&'static str, Arc<dyn Backend>)> {
    let file = |name: &str, size| {
        let path = dir.join(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    };
    let open = |path: &Path| Arc::new(FileDisk::open(path, false, false).unwrap());
    let base = || open(&file("base", SIZE));
    let upper = dir.join("upper");
    vec![
        ("memory", Arc::new(Memory::new(SIZE).unwrap())),
        ("file", open(&file("file", SIZE))),
        (
            "stripe",
            Arc::new(
                Stripe::new(vec![open(&file("a", SIZE / 2)), open(&file("b", SIZE / 2))], 65536).unwrap(),
            ),
        ),
        ("overlay in memory", Arc::new(Overlay::in_memory(base(), None).unwrap())),
        ("overlay in a file", Arc::new(Overlay::in_file(base(), &upper, None, false).unwrap())),
    ]
}
