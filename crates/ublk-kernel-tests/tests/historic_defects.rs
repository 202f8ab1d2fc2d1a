//! What earlier ublk servers got wrong, each as a test against the real driver.
//!
//! | # | the defect | here | close to the code |
//! |---|---|---|---|
//! | 1 | answers prepared under a lock that the submit path took again: a full submission queue deadlocked | `d1_…` (2) | |
//! | 2 | descriptors padded to 32 bytes: every tag but 0 read a mixture of its neighbours | `d2_…` | `abi::a_descriptor_is_24_bytes_not_32` |
//! | 3 | commands at the wrong offset of the SQE | `d3_…` (2) | `abi::command_payloads_start_at_byte_48_of_the_sqe` |
//! | 4 | queues primed on one thread and answered on another | `d4_…` (2) | the `compile_fail` example of `queue::Queue` |
//! | 5 | completions without fences: a request was seen before its descriptor | `d5_…` | |
//! | 6 | the tables of the second and later queues at the wrong offset | `d6_…` | `abi::a_queues_table_starts_at_the_maximum_depth_whatever_its_own` |
//! | 7 | 64 KiB buffers under requests of 1 MiB | `d7_…` | `buffers::every_tag_has_room_for_the_largest_io_and_none_overlap` |
//! | 8 | offsets scaled by the block size | `d8_…` | `descriptors::offsets_count_512_byte_sectors_whatever_the_block_size` |

use io_uring::opcode;
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use ublk_core::Spec;
use ublk_core::queue::Op;
use ublk_core::testing::abi::io_op;
use ublk_core::testing::ring::{Ring, Wait};
use ublk_kernel_tests::*;

const SECTOR: u64 = 512;

#[test]
fn d1_a_full_submission_queue_is_submitted_and_the_pushing_goes_on() {
    within("pushing to a full ring", || {
        let mut ring = Ring::new(8, &[std::io::stdin().as_raw_fd()]).unwrap();
        let mut seen = BTreeSet::new();
        for at in 0..1000 {
            // SAFETY: points to no memory.
            unsafe { ring.push(&opcode::Nop::new().build().user_data(at)) }.unwrap();
            if at % 10 == 9 {
                seen.extend(ring.completions().map(|completion| completion.user_data()));
            }
        }
        while seen.len() < 1000 {
            ring.enter(Wait::Forever, 0).unwrap();
            seen.extend(ring.completions().map(|completion| completion.user_data()));
        }
    });
}

#[test]
fn d1_four_thousand_answers_prepared_in_one_turn_all_reach_the_driver() {
    const DEPTH: usize = 4096;
    let gate = Gate::new();
    let checking = Checking::gated(96 << 20, 512, Some(gate.clone()));
    let disk = Disk::share(&Spec { depth: DEPTH as u32, ..Spec::default() }, checking.clone()).settled();
    // The default scheduler would let 256 through.
    disk.set_limit("scheduler", "none");
    let file = disk.open();
    for round in 1..=2 {
        let (file, base) = (file.try_clone().unwrap(), (round as u64 - 1) * (32 << 20));
        let client = std::thread::spawn(move || {
            // Neighbours would be merged.
            let offset = |at| base + at as u64 * 16 * SECTOR;
            let mut reads: Vec<_> = (0..DEPTH).map(|at| Transfer::read(offset(at), 512)).collect();
            assert!(at_once(&file, &mut reads).iter().all(|done| *done == 512));
            assert!(reads.iter().all(|read| first_wrong(&read.data, read.offset).is_none()));
        });
        eventually("every tag is in flight", || gate.arrived() == round * DEPTH);
        gate.open(DEPTH);
        client.join().unwrap();
    }
    drop(file);
    disk.finish();
}

#[test]
fn d2_each_of_many_requests_in_flight_has_its_own_descriptor() {
    const REQUESTS: usize = 256;
    let gate = Gate::new();
    let checking = Checking::gated(16 << 20, 512, Some(gate.clone()));
    let disk = Disk::share(&Spec { depth: REQUESTS as u32, ..Spec::default() }, checking.clone()).settled();
    let file = disk.open();
    // No two next to each other, in no order.
    let offset = |at: usize| (at * 37 % REQUESTS) as u64 * 8 * SECTOR;
    let client = std::thread::spawn(move || {
        let mut writes: Vec<_> = (0..REQUESTS).map(|at| Transfer::write(offset(at), 512)).collect();
        assert!(at_once(&file, &mut writes).iter().all(|done| *done == 512));
    });
    eventually("all are in flight", || gate.arrived() == REQUESTS);
    let seen = checking.seen();
    let writes: Vec<_> = seen.iter().filter(|what| what.op == Op::Write).collect();
    assert!(writes.iter().all(|what| what.length == 512));
    let offsets: BTreeSet<_> = writes.iter().map(|what| what.offset).collect();
    assert_eq!((writes.len(), offsets), (REQUESTS, (0..REQUESTS).map(offset).collect()));
    gate.open(REQUESTS);
    client.join().unwrap();
    checking.assert_right();
    disk.finish();
}

/// Buffers for a device served by hand, as many as it has tags.
fn buffers(number: u16) -> Vec<Aligned> {
    (0..number).map(|_| Aligned::new(4096)).collect()
}

#[test]
fn d3_queue_tag_and_address_are_where_the_driver_looks_for_them() {
    const DEPTH: u16 = 4;
    let device = RawDevice::add(1, DEPTH.into());
    let char_dev = device.open();
    let mut memory = buffers(DEPTH);
    let addresses: Vec<_> = memory.iter_mut().map(|buffer| buffer.as_mut_ptr() as u64).collect();
    let mut queue = RawQueue::new(&char_dev);
    for tag in 0..DEPTH {
        let addr = addresses[usize::from(tag)];
        queue.send(Command { op: io_op::FETCH_REQ, queue: 0, tag, result: 0, addr });
    }
    // The start's own partition scan sends requests too, before it is over or after.
    let reader = device.start_and_read();
    let mut served = 0;
    while !reader.is_finished() {
        let Some(fetched) = queue.wait_briefly() else { continue };
        assert_eq!(fetched.result, 0);
        let descriptor = device.descriptor(&char_dev, 0, DEPTH, fetched.tag);
        assert_eq!(descriptor.addr, addresses[usize::from(fetched.tag)], "tag {}", fetched.tag);
        let (tag, addr) = (fetched.tag, descriptor.addr);
        let result = (descriptor.nr_sectors * 512).cast_signed();
        queue.send(Command { op: io_op::COMMIT_AND_FETCH_REQ, queue: 0, tag, result, addr });
        served += 1;
    }
    assert!(served > 0);
    reader.join().unwrap();
    device.end(queue, char_dev);
}

#[test]
fn d3_a_payload_eight_bytes_too_far_is_refused() {
    let device = RawDevice::add(1, 1);
    let char_dev = device.open();
    let mut memory = buffers(1);
    let mut queue = RawQueue::new(&char_dev);
    let addr = memory[0].as_mut_ptr() as u64;
    let fetch = Command { op: io_op::FETCH_REQ, queue: 0, tag: 0, result: 0, addr };
    let mut shifted = [0; 16];
    shifted[8..].copy_from_slice(&ublk_core::testing::abi::io_command(0, 0, 0, addr)[..8]);
    queue.send_payload(fetch, shifted, io_op::FETCH_REQ);
    assert_eq!(queue.wait().result, -libc::EINVAL);
    device.end(queue, char_dev);
}

#[test]
fn d4_the_driver_takes_an_answer_only_from_the_thread_that_fetched() {
    let device = RawDevice::add(1, 1);
    let char_dev = device.open();
    let mut memory = buffers(1);
    let addr = memory[0].as_mut_ptr() as u64;
    let mut queue = RawQueue::new(&char_dev);
    queue.send(Command { op: io_op::FETCH_REQ, queue: 0, tag: 0, result: 0, addr });
    let reader = device.start_and_read();
    assert_eq!(queue.wait(), Fetched { queue: 0, tag: 0, result: 0 });
    let answer = Command { op: io_op::COMMIT_AND_FETCH_REQ, queue: 0, tag: 0, result: 4096, addr };
    let stranger = char_dev.try_clone().unwrap();
    let refused = within("an answer from another thread", move || {
        let mut queue = RawQueue::new(&stranger);
        queue.send(answer);
        queue.wait().result
    });
    assert_eq!(refused, -libc::EINVAL);
    // Harmless: its owner can still answer.
    queue.send(answer);
    while !reader.is_finished() {
        if queue.wait_briefly().is_some() {
            queue.send(answer);
        }
    }
    reader.join().unwrap();
    device.end(queue, char_dev);
}

#[test]
fn d4_a_tag_that_was_answered_cannot_be_answered_again() {
    let device = RawDevice::add(1, 1);
    let char_dev = device.open();
    let mut memory = buffers(1);
    let addr = memory[0].as_mut_ptr() as u64;
    let mut queue = RawQueue::new(&char_dev);
    let fetch = Command { op: io_op::FETCH_REQ, queue: 0, tag: 0, result: 0, addr };
    queue.send(fetch);
    let answer = Command { op: io_op::COMMIT_AND_FETCH_REQ, result: 4096, ..fetch };
    queue.send(answer);
    assert_eq!(queue.wait().result, -libc::EBUSY);
    queue.send(fetch);
    assert_eq!(queue.wait().result, -libc::EBUSY);
    device.end(queue, char_dev);
}

#[test]
fn d5_a_request_is_never_seen_before_its_descriptor_and_data() {
    const SIZE: u64 = 64 << 20;
    let checking = Checking::new(SIZE, 512);
    let disk = Disk::share(&Spec { queues: 2, depth: 64, ..Spec::default() }, checking.clone());
    // Neighbours that the kernel merges would be one request.
    std::fs::write(disk.path().replace("/dev/", "/sys/block/") + "/queue/nomerges", "2").unwrap();
    let clients: Vec<_> = cpus()
        .into_iter()
        .map(|cpu| {
            let file = disk.open();
            on_cpu(cpu, move || {
                let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ cpu as u64;
                for _ in 0..60 {
                    let mut transfers: Vec<_> = (0..64)
                        .map(|_| {
                            random =
                                random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                            let length = (1 + (random >> 60) as usize) * 512;
                            let offset = (random >> 20) % (SIZE - 8192) / SECTOR * SECTOR;
                            let make = if random & (1 << 40) == 0 { Transfer::read } else { Transfer::write };
                            make(offset, length)
                        })
                        .collect();
                    let done = at_once(&file, &mut transfers);
                    for (transfer, done) in transfers.iter().zip(done) {
                        assert_eq!(done, transfer.data.len() as i32);
                        assert_eq!(first_wrong(&transfer.data, transfer.offset), None);
                    }
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    checking.assert_right();
    assert!(checking.seen().len() >= 60 * 64 * cpus().len());
    disk.finish();
}

#[test]
fn d6_every_queue_reads_its_own_table() {
    let cpus = cpus();
    if cpus.len() < 2 {
        return println!("only one CPU: only one queue");
    }
    let checking = Checking::new(64 << 20, 512);
    let spec = Spec { queues: cpus.len() as u32, depth: 3, ..Spec::default() };
    let disk = Disk::share(&spec, checking.clone());
    assert_eq!(disk.device().counters().len(), cpus.len());
    // Three threads a CPU keep every tag of each queue busy; plain writes stay on their thread's CPU.
    let clients: Vec<_> = (0..3 * cpus.len())
        .map(|at| {
            let file = disk.open();
            on_cpu(cpus[at % cpus.len()], move || {
                for offset in (0..50).map(|n| (at as u64 * 50 + n) * 4096) {
                    file.write_all_at(&Aligned::stamped(4096, offset), offset).unwrap();
                    let mut data = Aligned::new(4096);
                    file.read_exact_at(&mut data, offset).unwrap();
                    assert_eq!(first_wrong(&data, offset), None);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    checking.assert_right();
    for (index, queue) in disk.device().counters().iter().enumerate() {
        assert_eq!(queue.of(Op::Write).ops.get(), 150, "writes of queue {index}");
        assert_eq!(queue.of(Op::Write).bytes.get(), 150 * 4096, "bytes of queue {index}");
    }
    disk.finish();
}

#[test]
fn d7_one_mebibyte_arrives_whole() {
    let checking = Checking::new(4 << 20, 512);
    let disk = Disk::share(&Spec { max_io: 1 << 20, depth: 4, ..Spec::default() }, checking.clone());
    disk.allow_requests_of(1 << 20);
    let file = disk.open();
    for offset in (0..4 << 20).step_by(1 << 20) {
        assert_eq!(file.write_at(&Aligned::stamped(1 << 20, offset), offset).unwrap(), 1 << 20);
        let mut data = Aligned::new(1 << 20);
        assert_eq!(file.read_at(&mut data, offset).unwrap(), 1 << 20);
        assert_eq!(first_wrong(&data, offset), None);
    }
    assert_eq!(checking.largest(), 1 << 20, "sent in parts");
    checking.assert_right();
    drop(file);
    disk.finish();
}

#[test]
fn d8_a_block_size_of_4096_does_not_scale_offsets() {
    let checking = Checking::new(64 << 20, 4096);
    let disk = Disk::share(&Spec::default(), checking.clone());
    let file = disk.open();
    assert_eq!((block::block_size(&file), block::size(&file)), (4096, 64 << 20));
    for offset in [0, 4096, 8192, 1 << 20, (64 << 20) - 4096] {
        file.write_all_at(&Aligned::stamped(4096, offset), offset).unwrap();
        let mut data = Aligned::new(4096);
        file.read_exact_at(&mut data, offset).unwrap();
        assert_eq!(first_wrong(&data, offset), None);
        assert!(checking.seen().iter().any(|what| (what.op, what.offset) == (Op::Write, offset)));
    }
    checking.assert_right();
    drop(file);
    disk.finish();
}
