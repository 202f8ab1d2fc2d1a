//! The file backend through a real disk: regular files on ext4 and tmpfs, block devices, and what happens when
//! the file is not what it was.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use ublk_core::backend::{Backend, File, Memory};
use ublk_core::queue::{Descriptor, Flags, Io, Op, Outcome};
use ublk_core::testing::described;
use ublk_core::{ErrorKind, Spec};
use ublk_kernel_tests::system::{Loop, Mounted, sparse};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;

fn serve(path: &Path, direct: bool) -> Disk {
    Disk::start(&Spec::default(), File::open(path, false, direct).unwrap())
}

/// The file holds what `exercise` wrote first.
fn assert_reached(path: &Path) {
    let mut data = vec![0; 512];
    fs::File::open(path).unwrap().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(first_wrong(&data, 0), None);
}

#[test]
fn a_file_on_ext4_is_a_disk_buffered_and_direct() {
    let mounted = Mounted::ext4(64 * MIB);
    for direct in [false, true] {
        let path = mounted.join(if direct { "direct" } else { "buffered" });
        sparse(&path, 16 * MIB);
        let disk = serve(&path, direct);
        exercise(&disk);
        disk.finish();
        assert_reached(&path);
    }
}

#[test]
fn a_file_in_memory_is_a_disk() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("file");
    sparse(&path, 16 * MIB);
    let disk = serve(&path, false);
    exercise(&disk);
    disk.finish();
    assert_reached(&path);
}

#[test]
fn a_block_device_is_a_disk_buffered_and_direct() {
    for direct in [false, true] {
        let device = Loop::new(16 * MIB);
        let disk = serve(device.path(), direct);
        assert_eq!(block::size(&disk.open()), 16 * MIB);
        exercise(&disk);
        disk.finish();
        assert_reached(device.path());
    }
}

#[test]
fn many_queues_share_a_file() {
    let mounted = Mounted::ext4(64 * MIB);
    let path = mounted.join("file");
    sparse(&path, 16 * MIB);
    let cpus = cpus();
    let spec = Spec { queues: cpus.len() as u32, depth: 8, ..Spec::default() };
    let disk = Disk::start(&spec, File::open(&path, false, true).unwrap());
    let clients: Vec<_> = (0u64..)
        .zip(&cpus)
        .map(|(at, cpu)| {
            let file = disk.open();
            on_cpu(*cpu, move || {
                for offset in (0..32).map(|n| (at * 32 + n) * 8192) {
                    file.write_all_at(&Aligned::stamped(8192, offset), offset).unwrap();
                    let mut data = Aligned::new(8192);
                    file.read_exact_at(&mut data, offset).unwrap();
                    assert_eq!(first_wrong(&data, offset), None);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    disk.finish();
}

#[test]
fn a_discard_frees_the_files_blocks_and_zeroes_read_as_such() {
    let mounted = Mounted::ext4(64 * MIB);
    let path = mounted.join("file");
    sparse(&path, 16 * MIB);
    let disk = serve(&path, false);
    let file = disk.open();
    let blocks = || {
        fs::File::open(&path).unwrap().sync_all().unwrap();
        fs::metadata(&path).unwrap().blocks() * 512
    };
    let data = Aligned::filled(1 << 20, 7);
    let zeroes = |offset| {
        let mut data = Aligned::new(1 << 20);
        file.read_exact_at(&mut data, offset).unwrap();
        assert!(data.iter().all(|byte| *byte == 0));
    };
    for (free, frees) in
        [(block::discard as fn(&_, _, _) -> _, true), (block::punch, true), (block::zero_out, false)]
    {
        (0..8).for_each(|at| file.write_all_at(&data, at * MIB).unwrap());
        file.sync_all().unwrap();
        assert!(blocks() >= 8 * MIB);
        free(&file, 0, 8 * MIB).unwrap();
        assert_eq!(blocks() < MIB, frees, "{} bytes in blocks", blocks());
        (0..8).for_each(|at| zeroes(at * MIB));
        assert_eq!(fs::metadata(&path).unwrap().len(), 16 * MIB, "the file keeps its size");
    }
    // The edges of an unaligned one stay.
    file.write_all_at(&data, 0).unwrap();
    block::punch(&file, 512, 64 << 10).unwrap();
    let mut read = Aligned::new(1 << 20);
    file.read_exact_at(&mut read, 0).unwrap();
    for (at, byte) in read.iter().enumerate() {
        assert_eq!(*byte, if (512..512 + (64 << 10)).contains(&at) { 0 } else { 7 }, "byte {at}");
    }
    drop(file);
    disk.finish();
}

#[test]
fn a_file_that_was_cut_off_gives_errors_and_nothing_hangs() {
    let mounted = Mounted::ext4(64 * MIB);
    for direct in [false, true] {
        let path = mounted.join(if direct { "direct" } else { "buffered" });
        sparse(&path, 16 * MIB);
        let disk = serve(&path, direct);
        let file = disk.open();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(MIB + 4096).unwrap();
        let read = |offset, length| file.read_at(&mut Aligned::new(length), offset);
        assert_eq!(read(2 * MIB, 4096).unwrap_err().raw_os_error(), Some(libc::EIO), "behind the end");
        // Half of it is there: the kernel may say so, or call it an error; never more than there is.
        assert!(read(MIB, 8192).is_ok_and(|done| done <= 4096) || read(MIB, 8192).is_err(), "across the end");
        assert_eq!(read(0, 4096).unwrap(), 4096, "before the end");
        // A write makes the file longer again.
        file.write_all_at(&Aligned::stamped(4096, 3 * MIB), 3 * MIB).unwrap();
        assert_eq!(read(2 * MIB, 4096).unwrap(), 4096);
        assert!(disk.device().counters()[0].of(Op::Read).errors.get() >= 1);
        drop(file);
        disk.finish();
    }
}

#[test]
fn a_full_filesystem_is_told_to_the_disks_user() {
    let mounted = Mounted::ext4(8 * MIB);
    let path = mounted.join("file");
    sparse(&path, 64 * MIB);
    let disk = serve(&path, true);
    let file = disk.open();
    let data = Aligned::filled(1 << 20, 1);
    let failure = (0..64).find_map(|at| file.write_all_at(&data, at * MIB).err()).unwrap();
    assert_eq!(failure.raw_os_error(), Some(libc::ENOSPC));
    block::discard(&file, 0, 64 * MIB).unwrap();
    file.write_all_at(&data, 0).unwrap();
    drop(file);
    disk.finish();
}

#[test]
fn a_read_only_disk_neither_writes_nor_needs_a_writable_file() {
    let mounted = Mounted::ext4(64 * MIB);
    let path = mounted.join("file");
    sparse(&path, MIB);
    system::run("chattr", &["+i", path.to_str().unwrap()]);
    assert_eq!(File::open(&path, false, false).err().unwrap().kind, ErrorKind::Backend);
    let spec = Spec { read_only: true, ..Spec::default() };
    let disk = Disk::start(&spec, File::open(&path, true, false).unwrap());
    // Some kernels refuse the open, others each write.
    let refused = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk.path())
        .and_then(|file| file.write_at(&[1; 4096], 0));
    let refused = refused.unwrap_err().raw_os_error();
    assert!(matches!(refused, Some(libc::EACCES | libc::EPERM | libc::EROFS)), "{refused:?}");
    let reader = fs::File::open(disk.path()).unwrap();
    reader.read_exact_at(&mut [0; 4096], 0).unwrap();
    assert!(block::discard(&reader, 0, 4096).is_err());
    drop(reader);
    disk.finish();
    system::run("chattr", &["-i", path.to_str().unwrap()]);
}

#[test]
fn what_cannot_be_a_disk_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let path = path.to_owned();
        let error = within("opening a file", move || File::open(&path, false, false).err().unwrap());
        assert_eq!(error.kind, ErrorKind::Backend, "{error}");
        error.message
    };
    assert!(refused(&dir.path().join("missing")).contains("ENOENT"));
    assert!(refused(dir.path()).contains("neither a regular file nor a block device"));
    assert!(refused(Path::new("/dev/null")).contains("neither"));
    let fifo = dir.path().join("fifo");
    system::run("mkfifo", &[fifo.to_str().unwrap()]);
    assert!(refused(&fifo).contains("neither"));
    let empty = dir.path().join("empty");
    sparse(&empty, 0);
    let properties = File::open(&empty, false, false).unwrap().properties();
    assert_eq!(described(&Spec::default(), &properties, 4096).unwrap_err().kind, ErrorKind::Invalid);
}

/// A disk that remembers what it was asked for: the medium below a file disk.
fn recorder(size: u64) -> (Disk, Arc<Mutex<Vec<Descriptor>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let medium = Mutex::new(vec![0; size as usize]);
    let answer = move |io: &mut Io<'_>| -> Outcome {
        let what = io.request.what;
        log.lock().unwrap().push(what);
        let (at, length) = (what.offset as usize, what.length as usize);
        let mut medium = medium.lock().unwrap();
        match what.op {
            Op::Read => data(io).unwrap().copy_from_slice(&medium[at..at + length]),
            Op::Write => medium[at..at + length].copy_from_slice(data(io).unwrap()),
            Op::Discard | Op::WriteZeroes => medium[at..at + length].fill(0),
            _ => {}
        }
        Ok(length as u32)
    };
    (Disk::start(&Spec::default(), Scripted::new(size, answer)), seen)
}

#[test]
fn flushes_and_durable_writes_reach_the_medium() {
    let (medium, seen) = recorder(4 * MIB);
    let disk = serve(Path::new(&medium.path()), true);
    let file = disk.open();
    let asked = |op, fua| {
        let found = |what: &Descriptor| what.op == op && what.flags.has(Flags::FUA) == fua;
        seen.lock().unwrap().drain(..).filter(found).count()
    };
    asked(Op::Flush, false);
    file.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
    assert_eq!(asked(Op::Write, false), 1, "a plain write");
    file.sync_all().unwrap();
    assert_eq!(asked(Op::Flush, false), 1, "a flush");
    assert_eq!(block::write_durably(&file, &Aligned::filled(4096, 2), 4096).unwrap(), 4096);
    assert_eq!(asked(Op::Write, true), 1, "a durable write");
    drop(file);
    disk.finish();
    medium.finish();
}

#[test]
fn without_a_write_cache_every_write_is_durable_before_it_is_answered() {
    let (medium, seen) = recorder(4 * MIB);
    for direct in [true, false] {
        let spec = Spec { write_cache: Some(false), ..Spec::default() };
        let disk = Disk::start(&spec, File::open(Path::new(&medium.path()), false, direct).unwrap());
        let file = disk.open();
        seen.lock().unwrap().clear();
        file.write_all_at(&Aligned::filled(8192, 1), 0).unwrap();
        let made_durable =
            |what: &Descriptor| (what.op == Op::Write && what.flags.has(Flags::FUA)) || what.op == Op::Flush;
        assert!(seen.lock().unwrap().drain(..).any(|what| made_durable(&what)), "a write, direct: {direct}");
        block::zero_out(&file, 0, 4096).unwrap();
        assert!(seen.lock().unwrap().drain(..).any(|what| made_durable(&what)), "zeroes, direct: {direct}");
        drop(file);
        disk.finish();
    }
    medium.finish();
}

#[test]
fn a_filesystem_can_be_unmounted_once_the_disk_in_it_is_gone() {
    let mounted = Mounted::ext4(64 * MIB);
    let path = mounted.join("file");
    sparse(&path, 16 * MIB);
    for round in 0..5 {
        let disk = serve(&path, round % 2 == 0);
        exercise(&disk);
        disk.finish();
    }
    mounted.unmount();
}

/// Discard and write-zeroes are different things of a block device: some have only the first.
#[test]
fn only_what_the_device_below_can_do_is_advertised() {
    let (medium, _) = recorder(4 * MIB);
    let bare = Disk::start(&Spec { discard: Some(false), ..Spec::default() }, Memory::new(4 * MIB).unwrap());
    for (below, able) in [(&medium, true), (&bare, false)] {
        let disk = serve(Path::new(&below.path()), true);
        assert_eq!(disk.limit("discard_max_bytes") > 0, able);
        let file = disk.open();
        file.write_all_at(&Aligned::filled(8192, 9), 0).unwrap();
        assert_eq!(block::discard(&file, 0, 4096).is_ok(), able);
        // Without it the kernel writes the zeroes itself.
        block::zero_out(&file, 0, 8192).unwrap();
        let mut data = Aligned::new(8192);
        file.read_exact_at(&mut data, 0).unwrap();
        assert!(data.iter().all(|byte| *byte == 0));
        drop(file);
        disk.finish();
    }
    bare.finish();
    medium.finish();
}

/// The kernel hides a discard that failed for want of support: only the counters tell.
#[test]
fn what_is_advertised_over_a_device_without_write_zeroes_works() {
    let ram = Path::new("/dev/ram0");
    if !ram.exists() {
        return println!("no RAM disk here");
    }
    assert_eq!(system::read("/sys/block/ram0/queue/write_zeroes_max_bytes"), "0");
    let disk = serve(ram, true);
    let file = disk.open();
    file.write_all_at(&Aligned::filled(8192, 9), 0).unwrap();
    let _ = block::discard(&file, 0, 8192);
    block::zero_out(&file, 0, 8192).unwrap();
    let mut data = Aligned::new(8192);
    file.read_exact_at(&mut data, 0).unwrap();
    assert!(data.iter().all(|byte| *byte == 0));
    let errors = |op| disk.device().counters()[0].of(op).errors.get();
    assert_eq!((errors(Op::Discard), errors(Op::WriteZeroes)), (0, 0));
    drop(file);
    disk.finish();
}

/// tmpfs punches holes, but cannot zero a range otherwise. The kernel splits the operation into concurrent requests,
/// each of which has to detect that.
#[test]
fn zeroes_that_are_in_flight_together_are_written_whatever_the_filesystem_can() {
    const GIB: u64 = 1 << 30;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("file");
    sparse(&path, 4 * GIB);
    let disk = serve(&path, false);
    let file = disk.open();
    let places = || (0..4).map(|at| at * GIB + 8 * MIB);
    places().for_each(|at| file.write_all_at(&Aligned::filled(4096, 7), at).unwrap());
    block::zero_out(&file, 0, 4 * GIB).unwrap();
    for at in places() {
        let mut data = Aligned::new(4096);
        file.read_exact_at(&mut data, at).unwrap();
        assert!(data.iter().all(|byte| *byte == 0), "at {at}");
    }
    assert!(disk.device().counters()[0].of(Op::WriteZeroes).ops.get() >= 4, "several requests");
    assert_eq!(disk.device().counters()[0].of(Op::WriteZeroes).errors.get(), 0);
    drop(file);
    disk.finish();
}

/// A device may refuse an operation that it advertises, for good or once.
#[test]
fn zeroes_are_written_as_data_where_the_device_below_refuses_to_make_them() {
    for errno in [libc::EOPNOTSUPP, libc::EINVAL, libc::EIO] {
        let medium = Mutex::new(vec![9; 4 * MIB as usize]);
        let refused = Arc::new(AtomicU32::new(0));
        let count = refused.clone();
        let answer = move |io: &mut Io<'_>| -> Outcome {
            let what = io.request.what;
            let (at, length) = (what.offset as usize, what.length as usize);
            let mut medium = medium.lock().unwrap();
            match what.op {
                Op::Read => data(io).unwrap().copy_from_slice(&medium[at..at + length]),
                Op::Write => medium[at..at + length].copy_from_slice(data(io).unwrap()),
                Op::Discard | Op::WriteZeroes => {
                    count.fetch_add(1, SeqCst);
                    return Err(errno);
                }
                _ => {}
            }
            Ok(length as u32)
        };
        let below = Disk::start(&Spec::default(), Scripted::new(4 * MIB, answer));
        let disk = serve(Path::new(&below.path()), true);
        let file = disk.open();
        block::zero_out(&file, 4096, 2 * MIB).unwrap();
        block::punch(&file, 3 * MIB, 512 << 10).unwrap();
        let mut data = Aligned::new(4 * MIB as usize);
        file.read_exact_at(&mut data, 0).unwrap();
        let zeroed = |at| (4096..4096 + 2 * MIB as usize).contains(&at) || (3 << 20..7 << 19).contains(&at);
        for (at, byte) in data.iter().enumerate() {
            assert_eq!(*byte, if zeroed(at) { 0 } else { 9 }, "byte {at}, {errno}");
        }
        assert!(refused.load(SeqCst) > 0);
        assert_eq!(disk.device().counters()[0].of(Op::WriteZeroes).errors.get(), 0);
        drop(file);
        disk.finish();
        below.finish();
    }
}
