//! Where the threads of queues run, and when they sleep.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use ublk_core::backend::Memory;
use ublk_core::queue::{CopyMode, Op, Transport};
use ublk_core::spec::Threads;
use ublk_core::testing::Control;
use ublk_core::{Bound, Spec, registry};
use ublk_kernel_tests::*;

const SIZE: u64 = 16 << 20;

fn start(spec: &Spec) -> Disk {
    Disk::start(&Spec { depth: 16, ..spec.clone() }, Memory::new(SIZE).unwrap())
}

/// On which CPUs the thread of a disk's queue may run.
fn cpus_of(disk: &Disk, queue: usize) -> String {
    system::cpus_of(&format!("ublk{}q{queue}", disk.device().id()))
}

/// The CPUs that the driver maps to a queue: all of those that there are in a small machine.
fn mapped(disk: &Disk, queue: u16) -> Vec<usize> {
    let control = Control::open().unwrap();
    let mask = control.affinity(disk.device().id(), queue, &Bound::standard()).unwrap();
    cpus().into_iter().filter(|cpu| mask[0] >> cpu & 1 == 1).collect()
}

fn anywhere() -> String {
    system::read("/sys/devices/system/cpu/online")
}

/// Skips, loudly, what one CPU cannot show: there the driver keeps one queue.
fn several() -> bool {
    let several = cpus().len() >= 2;
    if !several {
        println!("only one CPU: only one queue");
    }
    several
}

#[test]
fn each_queue_is_served_on_the_cpus_that_the_driver_maps_to_it() {
    let _alone = alone();
    if !several() {
        return;
    }
    let disk = start(&Spec { queues: 2, ..Spec::default() });
    for queue in 0..2 {
        let cpus: Vec<_> = mapped(&disk, queue).iter().map(usize::to_string).collect();
        assert!(!cpus.is_empty());
        assert_eq!(cpus_of(&disk, queue.into()), cpus.join(","));
    }
    assert_ne!(mapped(&disk, 0), mapped(&disk, 1));
    exercise(&disk);
    disk.finish();
}

#[test]
fn a_single_queue_and_queues_that_are_to_be_free_are_served_anywhere() {
    let _alone = alone();
    let one = start(&Spec::default());
    assert_eq!(cpus_of(&one, 0), anywhere());
    let free = start(&Spec { queues: 2, affinity: Some(false), ..Spec::default() });
    for queue in 0..free.device().counters().len() {
        assert_eq!(cpus_of(&free, queue), anywhere());
    }
    let polling = start(&Spec { queues: 2, ..polling() });
    assert_eq!(cpus_of(&polling, 0), anywhere());
    let shared = start(&Spec { queues: 2, threads: Threads::Shared, ..Spec::default() });
    assert_eq!(system::cpus_of("ublk-shared0"), anywhere());
    [one, free, polling, shared].into_iter().for_each(Disk::finish);
}

#[test]
fn a_cpu_that_may_not_be_used_keeps_no_device_from_starting() {
    let _alone = alone();
    if !several() {
        return;
    }
    let cpu = cpus()[1];
    let disk = on_cpu(cpu, || start(&Spec { queues: 2, ..Spec::default() })).join().unwrap();
    for queue in 0..2 {
        assert_eq!(cpus_of(&disk, queue), cpu.to_string());
    }
    for client in cpus() {
        let file = disk.open();
        on_cpu(client, move || file.read_exact_at(&mut Aligned::new(4096), 0).unwrap()).join().unwrap();
    }
    disk.finish();
}

/// Returns when nobody has used a new disk for a while.
fn settle(name: &str) {
    let mut last = 0;
    eventually("the thread sleeps", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = system::sleeps(name);
        std::mem::replace(&mut last, now) == now
    });
}

fn polling() -> Spec {
    Spec { poll: Duration::from_millis(1), ..Spec::default() }
}

/// How often a queue's thread goes to sleep while another process reads the disk, one request after the other, and how long
/// one takes.
fn sleeps_of_a_reader(spec: &Spec) -> (u64, Duration) {
    let disk = start(spec);
    let name = format!("ublk{}q0", disk.device().id());
    settle(&name);
    let (before, began) = (system::sleeps(&name), Instant::now());
    assert!(Beside::reader(&disk.path()).end("the reader").success());
    let (slept, took) = (system::sleeps(&name) - before, began.elapsed());
    let reads = disk.device().counters()[0].of(Op::Read).ops.get();
    assert!(reads >= SIZE / 4096, "{reads} reads");
    println!("{slept} sleeps at {reads} reads");
    disk.finish();
    (slept, took / reads as u32)
}

#[test]
fn who_polls_sleeps_less_where_requests_follow_each_other() {
    let _alone = alone();
    for transport in Transport::ALL {
        let control = Control::open().unwrap();
        if !control.features(&Bound::standard()).unwrap().has(transport.flags()) {
            continue;
        }
        let spec = |spec| Spec { transport: Some(transport), ..spec };
        let (sleeping, each) = sleeps_of_a_reader(&spec(Spec::default()));
        if each > polling().poll / 2 {
            println!("too slow a machine: {each:?} for each read");
            continue;
        }
        // Each request wakes a sleeper. How many a machine spares that has other things to do is its matter; where the client
        // has no CPU of its own, nobody looks.
        let fewer = (0..3).any(|_| sleeps_of_a_reader(&spec(polling())).0 < sleeping / 10 * 9);
        assert_eq!(fewer, several(), "{transport}: sleeps as often, {sleeping} times");
    }
}

#[test]
fn an_idle_disk_sleeps_however_long_it_may_poll() {
    let _alone = alone();
    let disk = start(&polling());
    exercise(&disk);
    let name = format!("ublk{}q0", disk.device().id());
    settle(&name);
    let (sleeps, busy) = (system::sleeps(&name), system::busy(&name));
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(
        (system::sleeps(&name), system::busy(&name)),
        (sleeps, busy),
        "wake-ups and time of an idle thread"
    );
    // It was not dead.
    disk.open().read_exact_at(&mut Aligned::new(4096), 0).unwrap();
    eventually("it sleeps again", || system::sleeps(&name) > sleeps);
    disk.finish();
}

#[test]
fn a_disk_that_polls_works_in_every_way_and_stops_under_load() {
    let _alone = alone();
    for transport in Transport::ALL {
        for copy in CopyMode::ALL {
            let spec = Spec { transport: Some(transport), copy: Some(copy), queues: 2, ..polling() };
            let able = Control::open().unwrap().features(&Bound::standard()).unwrap();
            if copy == CopyMode::Zero || !able.has(transport.flags() | copy.flags()) {
                continue; // memory is always copied
            }
            let disk = start(&spec);
            exercise(&disk);
            let reader = Beside::reader(&disk.path());
            eventually("the reader reads", || !registry::users(disk.device().id()).is_empty());
            disk.finish();
            reader.end("the reader");
        }
    }
}
