//! Where the threads of queues run.

use std::os::unix::fs::FileExt;
use ublk_core::backend::Memory;
use ublk_core::spec::Threads;
use ublk_core::{Bound, Control, Spec};
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
    let free = start(&Spec { queues: 2, affinity: false, ..Spec::default() });
    for queue in 0..free.device().counters().len() {
        assert_eq!(cpus_of(&free, queue), anywhere());
    }
    let shared = start(&Spec { queues: 2, threads: Threads::Shared, ..Spec::default() });
    assert_eq!(system::cpus_of("ublk-hub0"), anywhere());
    [one, free, shared].into_iter().for_each(Disk::finish);
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
