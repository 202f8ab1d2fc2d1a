//! The backends without a file, through a real disk.

use std::os::unix::fs::FileExt;
use ublk_core::Spec;
use ublk_core::backend::{Memory, Null};
use ublk_core::queue::Op;
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;

/// With few tags: their buffers take memory too, as soon as they were used.
fn memory(size: u64) -> Disk {
    Disk::start(&Spec { depth: 2, ..Spec::default() }, Memory::new(size).unwrap())
}

fn bytes(disk: &std::fs::File, offset: u64, length: usize) -> Aligned {
    let mut data = Aligned::new(length);
    disk.read_exact_at(&mut data, offset).unwrap();
    data
}

#[test]
fn memory_is_taken_by_writes_and_given_back_by_discards_and_zeroes() {
    let _alone = alone();
    let disk = memory(256 * MIB);
    let file = disk.open();
    let data = Aligned::filled(1 << 20, 0xa5);
    let before = system::resident();
    for give_back in [block::discard, block::punch, block::zero_out] {
        (0..32).for_each(|at| file.write_all_at(&data, at * MIB).unwrap());
        assert!(system::resident() >= before + 30 * MIB, "written and not kept");
        give_back(&file, 0, 32 * MIB).unwrap();
        assert!(system::resident() < before + 8 * MIB, "not given back");
        assert!(bytes(&file, 17 * MIB, 1 << 20).iter().all(|byte| *byte == 0));
    }
    // Reading what was never written takes nothing.
    (64..256).for_each(|at| assert!(bytes(&file, at * MIB, 4096).iter().all(|byte| *byte == 0)));
    assert!(system::resident() < before + 8 * MIB, "reading takes memory");
    drop(file);
    disk.finish();
}

#[test]
fn memory_comes_back_when_the_disk_goes() {
    let _alone = alone();
    let before = system::resident();
    let disk = memory(32 * MIB);
    let file = disk.open();
    (0..32).for_each(|at| file.write_all_at(&Aligned::filled(1 << 20, 1), at * MIB).unwrap());
    assert!(system::resident() >= before + 30 * MIB);
    drop(file);
    disk.finish();
    eventually("the memory is free", || system::resident() < before + 8 * MIB);
}

#[test]
fn zeroing_covers_exactly_the_range_at_any_alignment() {
    let _alone = alone();
    let disk = memory(MIB);
    let file = disk.open();
    for (offset, length) in [(512, 512), (512, 4096), (3584, 1024), (4096, 8192), (512, 128 << 10), (0, MIB)]
    {
        for zero in [block::zero_out, block::punch] {
            file.write_all_at(&Aligned::filled(1 << 20, 0x5a), 0).unwrap();
            zero(&file, offset, length).unwrap();
            for (at, byte) in (0..).zip(bytes(&file, 0, 1 << 20).iter()) {
                let expected = if (offset..offset + length).contains(&at) { 0 } else { 0x5a };
                assert_eq!(*byte, expected, "byte {at} after zeroing {length} at {offset}");
            }
        }
    }
    drop(file);
    disk.finish();
}

#[test]
fn a_discard_never_touches_what_lies_around_it() {
    let _alone = alone();
    let disk = memory(MIB);
    let file = disk.open();
    for (offset, length) in [(512, 512), (512, 4096), (3584, 1024), (512, 128 << 10)] {
        file.write_all_at(&Aligned::filled(1 << 20, 0x5a), 0).unwrap();
        block::discard(&file, offset, length).unwrap();
        for (at, byte) in (0..).zip(bytes(&file, 0, 1 << 20).iter()) {
            assert!(*byte == 0x5a || (offset..offset + length).contains(&at), "byte {at}");
        }
    }
    drop(file);
    disk.finish();
}

#[test]
fn all_queues_serve_the_same_memory() {
    let _alone = alone();
    let cpus = cpus();
    let disk =
        Disk::start(&Spec { queues: cpus.len() as u32, ..Spec::default() }, Memory::new(4 * MIB).unwrap());
    for (at, writer) in (0u64..).zip(&cpus) {
        let file = disk.open();
        on_cpu(*writer, move || file.write_all_at(&Aligned::stamped(4096, at * 4096), at * 4096).unwrap())
            .join()
            .unwrap();
        for reader in &cpus {
            let file = disk.open();
            on_cpu(*reader, move || assert_eq!(first_wrong(&bytes(&file, at * 4096, 4096), at * 4096), None))
                .join()
                .unwrap();
        }
    }
    disk.finish();
}

#[test]
fn null_reads_zeroes_however_much_was_written() {
    let _alone = alone();
    // One tag: the next read gets the buffer of the last write.
    let disk = Disk::start(&Spec { depth: 1, ..Spec::default() }, Null::new(1 << 40));
    let file = disk.open();
    for (written, read) in [(64 << 10, 4096), (64 << 10, 64 << 10), (512, 64 << 10), (8192, 512), (512, 8192)]
    {
        file.write_all_at(&Aligned::filled(written, 0xff), 0).unwrap();
        for _ in 0..2 {
            assert!(bytes(&file, 0, read).iter().all(|byte| *byte == 0), "{read} bytes after {written}");
        }
    }
    block::discard(&file, 0, MIB).unwrap();
    block::zero_out(&file, 0, MIB).unwrap();
    assert_eq!(block::size(&file), 1 << 40);
    drop(file);
    disk.finish();
}

#[test]
fn counters_count_what_the_disk_was_asked_for() {
    let _alone = alone();
    let disk = Disk::start(&Spec { write_cache: Some(true), ..Spec::default() }, Memory::new(MIB).unwrap());
    let file = disk.open();
    let queue = disk.device().counters()[0].clone();
    let of = |op| (queue.of(op).ops.get(), queue.of(op).bytes.get(), queue.of(op).errors.get());
    file.write_all_at(&Aligned::filled(8192, 1), 0).unwrap();
    file.write_all_at(&Aligned::filled(4096, 1), 8192).unwrap();
    file.sync_all().unwrap();
    block::discard(&file, 0, 65536).unwrap();
    block::zero_out(&file, 0, 4096).unwrap();
    assert_eq!(of(Op::Write), (2, 12288, 0));
    assert_eq!(of(Op::Flush), (1, 0, 0));
    assert_eq!(of(Op::Discard), (1, 65536, 0));
    assert_eq!(of(Op::WriteZeroes), (1, 4096, 0));
    let before = of(Op::Read);
    bytes(&file, 0, 4096);
    assert_eq!(of(Op::Read), (before.0 + 1, before.1 + 4096, 0));
    assert!(queue.turns.get() >= 6);
    drop(file);
    disk.finish();
}
