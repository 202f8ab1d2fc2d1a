//! Headers and tables with wrong numbers: nothing panics, hangs or takes much memory.

use super::{Random, create, qemu_ok, setting, text};
use crate::Options;
use crate::qcow2::chain;
use crate::qcow2::mapper::{Clear, Mapper, Shared};
use crate::qcow2::scratch::Scratch;
use crate::qcow2::table::Table;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Counts the memory of all tests.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator, with a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(used, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Opens an image as a disk does, and reads and changes some of it.
fn use_image(path: &Path, random: &mut Random, reached: &mut [u64; 3]) {
    let read_only = random.below(3) == 0;
    let Ok(layers) = chain::open(path, &Options { read_only, ..Options::default() }) else { return };
    reached[0] += 1;
    let header = layers[0].header.clone().unwrap();
    let Some(table) = Table::new(header.size, header.cluster_bits) else { return };
    let shared = Shared::new(table);
    let Ok(scratch) = Scratch::new(1 << header.cluster_bits) else { return };
    let Ok(mut mapper) = Mapper::open(&layers, !read_only, random.below(2) == 0, scratch) else { return };
    reached[1] += 1;
    let blocks = header.size / 512;
    for _ in 0..3 {
        let first = if random.below(2) == 0 { random.below(blocks.min(256)) } else { random.below(blocks) };
        let count = (1 + random.below(64)).min(blocks - first);
        let range = first * 512..(first + count) * 512;
        let done = match random.below(if read_only { 1 } else { 4 }) {
            0 => mapper.look_up(range, &shared),
            1 => mapper.allocate(range, &shared).and_then(|()| mapper.after_allocations(&shared)),
            2 => mapper
                .clear(&[Clear { range, zeroes: random.below(2) == 0, keep: random.below(2) == 0 }], &shared)
                .map(drop),
            _ => mapper.flush(&shared),
        };
        reached[2] += u64::from(done.is_ok());
    }
}

/// Of this thread: on a busy machine a round may wait for long.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the time.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Puts wrong bytes where the header and the tables are.
fn spoil(image: &[u8], random: &mut Random) -> Vec<u8> {
    let mut image = image.to_vec();
    let length = image.len() as u64;
    for _ in 0..1 + random.below(4) {
        let at = match random.below(4) {
            0 => random.below(112), // the header
            1 => random.below(length.min(1024)),
            _ => random.below(length),
        } as usize;
        match random.below(5) {
            0 => image[at] ^= 1 << random.below(8),
            1 => image[at] = random.next() as u8,
            2 => image[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
            // A number of 64 bits: an offset near the file, or anything.
            how => {
                let at = at & !7;
                let number = match how {
                    3 => (random.below(2 * length / 512) * 512) | ((random.next() & 3) << 62),
                    _ => random.next() >> random.below(64),
                };
                if let Some(field) = image.get_mut(at..at + 8) {
                    field.copy_from_slice(&number.to_be_bytes());
                }
            }
        }
    }
    image
}

#[test]
fn wrong_headers_and_tables_neither_panic_nor_hang_nor_take_much_memory() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let images: Vec<Vec<u8>> = [
        ("cluster_size=512", false),
        ("cluster_size=4k,compat=0.10", false),
        ("cluster_size=512,refcount_bits=1", false),
        ("cluster_size=1k", true),
    ]
    .into_iter()
    .map(|(options, compressed)| {
        let (path, raw) = (dir.path().join("image"), dir.path().join("raw"));
        create(&path, options, "128k");
        let writes = ["-c", "write -P 1 0 5000", "-c", "write -P 2 60k 8k", "-c", "write -z 20k 8k"];
        qemu_ok("qemu-io", &[&["-f", "qcow2"], &writes[..], &[text(&path)]].concat());
        if compressed {
            qemu_ok("qemu-img", &["convert", "-O", "raw", text(&path), text(&raw)]);
            let words = ["convert", "-c", "-O", "qcow2", "-o", options, text(&raw), text(&path)];
            qemu_ok("qemu-img", &words);
        }
        fs::read(&path).unwrap()
    })
    .collect();
    let count = setting("UBLK_TS_QCOW2_FUZZ", 4000);
    let (seed, first) = (setting("UBLK_TS_QCOW2_SEED", 1), setting("UBLK_TS_QCOW2_ROUND", 0));
    let path = dir.path().join("spoilt");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let mut reached = [0; 3];
    let before = USED.load(Relaxed);
    for round in first..first + count {
        let mut random = Random(seed << 40 | round);
        let image = &images[random.below(images.len() as u64) as usize];
        let spoilt = spoil(image, &mut random);
        file.set_len(0).unwrap();
        file.write_all_at(&spoilt, 0).unwrap();
        MOST.store(USED.load(Relaxed), Relaxed);
        let begin = processor_time();
        use_image(&path, &mut random, &mut reached);
        let (took, most) = (processor_time() - begin, MOST.load(Relaxed).saturating_sub(before));
        assert!(took < Duration::from_secs(10), "seed {seed}, round {round}: {took:?}");
        assert!(most < 512 << 20, "seed {seed}, round {round}: {} MiB", most >> 20);
    }
    // Most get as far as that: otherwise hardly anything would be tested.
    assert!(reached[1] > count / 4 && reached[2] > count / 4, "{reached:?} of {count}");
}
