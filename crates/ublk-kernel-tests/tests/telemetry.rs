//! What queues tell about their requests: how long they were in service, and each one to whoever listens.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use ublk_core::Spec;
use ublk_core::backend::Memory;
use ublk_core::queue::Op;
use ublk_core::telemetry::trace::{Batch, Record};
use ublk_core::telemetry::{QueueCounters, clock};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;

/// Nanoseconds that the requests of a kind took in all, and how many they were.
fn service(queue: &QueueCounters, op: Op) -> (f64, u64) {
    let found = queue.service_of(op).snapshot();
    (found.sum as f64 * clock().nanos_per_tick(), found.count)
}

/// Both clocks are exact to a hundredth.
fn between(least: f64, found: f64, most: f64) {
    assert!(found >= least * 0.99, "{found} ns are less than {least}");
    assert!(found <= most * 1.01, "{found} ns are more than {most}");
}

/// Nobody but the test reads the disk.
fn quiet() -> Spec {
    Spec { partition_scan: false, ..Spec::default() }
}

#[test]
fn a_request_is_in_service_for_as_long_as_its_backend_takes_and_no_longer_than_its_client_waits() {
    let taken = Arc::new(AtomicU64::new(0));
    let backend = {
        let taken = taken.clone();
        Scripted::new(16 * MIB, move |io| {
            if io.request.what.offset != MIB {
                return Ok(io.request.what.length as u32);
            }
            let since = Instant::now();
            data(io).unwrap().iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            std::thread::sleep(std::time::Duration::from_millis(5));
            taken.store(since.elapsed().as_nanos() as u64, SeqCst);
            Err(libc::ENOSPC)
        })
    };
    let disk = Disk::start(&quiet(), backend);
    let (file, queue) = (disk.open(), disk.device().counters()[0].clone());
    let before = service(&queue, Op::Write);
    let since = Instant::now();
    file.write_at(&Aligned::new(4096), MIB).unwrap_err();
    let waited = since.elapsed().as_nanos() as f64;
    let after = service(&queue, Op::Write);
    assert_eq!(after.1, before.1 + 1, "one that fails counts");
    between(taken.load(SeqCst) as f64, after.0 - before.0, waited);
    drop(file);
    disk.finish();
}

#[test]
fn a_request_that_waits_for_something_else_is_in_service_meanwhile() {
    let gate = Gate::new();
    let disk = Disk::share(&quiet(), Checking::gated(16 * MIB, 512, Some(gate.clone()))).settled();
    let (file, queue) = (disk.open(), disk.device().counters()[0].clone());
    let before = service(&queue, Op::Read);
    let client = std::thread::spawn(move || {
        let since = Instant::now();
        file.read_exact_at(&mut Aligned::new(512), MIB).unwrap();
        since.elapsed().as_nanos() as f64
    });
    eventually("the request is at the server", || gate.arrived() == 1);
    let since = Instant::now();
    assert_eq!(service(&queue, Op::Read).1, before.1, "it is not finished");
    std::thread::sleep(std::time::Duration::from_millis(5));
    let held = since.elapsed().as_nanos() as f64;
    gate.open(1);
    let waited = within("the request", || client.join().unwrap());
    let after = service(&queue, Op::Read);
    assert_eq!(after.1, before.1 + 1);
    between(held, after.0 - before.0, waited);
    disk.finish();
}

#[test]
fn every_request_is_counted_once_with_its_time_however_many_are_answered_in_a_turn() {
    let disk = Disk::start(&Spec { queues: 2, ..Spec::default() }, Memory::new(16 * MIB).unwrap());
    let file = disk.open();
    for _ in 0..50 {
        // Apart from each other, or the kernel makes one request of them.
        let mut transfers: Vec<_> = (0..64).map(|at| Transfer::write(at * 65536, 4096)).collect();
        assert!(at_once(&file, &mut transfers).iter().all(|done| *done == 4096));
    }
    for op in [Op::Read, Op::Write] {
        for queue in disk.device().counters() {
            let found = queue.service_of(op).snapshot();
            assert_eq!(found.count, queue.of(op).ops.get());
            assert!(found.max <= found.sum && found.quantile(0.5) <= found.quantile(0.99));
        }
    }
    let writes: u64 = disk.device().counters().iter().map(|queue| queue.of(Op::Write).ops.get()).sum();
    assert_eq!(writes, 50 * 64);
    drop(file);
    disk.finish();
}

#[test]
fn a_listener_is_told_of_every_request_in_the_order_of_the_answers() {
    let errno = Arc::new(AtomicI32::new(0));
    let backend = {
        let errno = errno.clone();
        Scripted::new(16 * MIB, move |io| match errno.load(SeqCst) {
            0 => Ok(io.request.what.length as u32),
            errno => Err(errno),
        })
    };
    let disk = Disk::start(&quiet(), backend);
    let file = disk.open();
    file.write_all_at(&Aligned::new(512), 0).unwrap(); // before anybody listens
    let told = Arc::new(Mutex::new(Vec::<Record>::new()));
    let (ended, end) = channel();
    let tracing = {
        let told = told.clone();
        disk.device().tracer().listen(Box::new(move |batch: &Batch<'_>| {
            told.lock().unwrap().extend(batch.records);
            assert_eq!(batch.dropped, 0);
            if batch.last {
                ended.send(()).unwrap();
            }
        }))
    };
    file.write_all_at(&Aligned::new(4096), MIB).unwrap();
    block::discard(&file, 2 * MIB, 65536).unwrap();
    errno.store(libc::ENOSPC, SeqCst);
    file.write_at(&Aligned::new(512), 512).unwrap_err();
    errno.store(0, SeqCst);
    drop(tracing);
    end.recv_timeout(PATIENCE).unwrap();
    file.write_all_at(&Aligned::new(512), 0).unwrap(); // after
    let told = told.lock().unwrap();
    let seen: Vec<_> = told
        .iter()
        .map(|record| (record.what.op, record.what.offset, record.what.length, record.result))
        .collect();
    assert_eq!(
        seen,
        [
            (Op::Write, MIB, 4096, 4096),
            (Op::Discard, 2 * MIB, 65536, 0),
            (Op::Write, 512, 512, -libc::ENOSPC)
        ]
    );
    assert!(told.iter().all(|record| record.queue == 0 && record.ticks > 0));
    assert!(told.is_sorted_by_key(|record| record.ended));
    drop((file, told));
    disk.finish();
}
