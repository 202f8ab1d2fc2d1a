//! The I/O scheduler of a disk: none, where nobody has chosen one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};
use ublk_core::backend::Null;
use ublk_core::testing::Control;
use ublk_core::testing::abi::sys::UBLK_F_NO_AUTO_PART_SCAN;
use ublk_core::{Bound, Spec};
use ublk_kernel_tests::{Beside, Disk, Scripted, alone, eventually, within};

/// Set in the server's environment.
const SERVER: &str = "UBLK_TEST_SERVER";

/// Not a test: the server, which answers nothing. Prints its device's number and serves until it is killed.
#[test]
fn the_server() {
    if std::env::var_os(SERVER).is_some() {
        let park = || -> ! {
            loop {
                thread::park();
            }
        };
        let disk = Disk::start(&Spec::default(), Scripted::new(1 << 20, move |_| park()));
        println!("\ndevice {}", disk.device().id());
        park();
    }
}

/// Has the kernel know the one that it gives to disks of one queue. Debian's loads it when the first disk asks for it.
fn offer() {
    let _ = Command::new("modprobe").args(["--quiet", "mq-deadline"]).status(); // where it is no module, it is there
}

fn scheduler_of(id: u32) -> PathBuf {
    format!("/sys/block/ublkb{id}/queue/scheduler").into()
}

fn has(file: &Path, name: &str) -> bool {
    let names = fs::read_to_string(file).unwrap();
    names.contains(&format!("[{name}]")) || names.trim() == name // an only one is not marked
}

#[test]
fn a_disk_gets_none_whenever_it_appears() {
    offer();
    for queues in [1, 2] {
        let disk = Disk::start(&Spec { queues, ..Spec::default() }, Null::new(1 << 20));
        let file = scheduler_of(disk.device().id());
        eventually("it has none", || has(&file, "none"));
        disk.device().stop(true, &Bound::standard()).unwrap();
        assert!(!file.exists());
        disk.device().start(&Bound::standard()).unwrap();
        eventually("it has none again", || has(&file, "none"));
        disk.finish();
    }
}

#[test]
fn what_somebody_else_chooses_stays() {
    offer();
    let disk = Disk::start(&Spec::default(), Null::new(1 << 20));
    let file = scheduler_of(disk.device().id());
    eventually("it has none", || has(&file, "none"));
    // Until the kernel is quite done with one change, it refuses another with EBUSY.
    eventually("it can be changed again", || fs::write(&file, "mq-deadline").is_ok());
    assert!(has(&file, "mq-deadline"));
    disk.finish();
}

/// Who waits for the kernel to change it waits for the requests in flight, and cannot be killed.
#[test]
fn a_server_is_killed_while_the_change_waits_for_it_and_everything_ends() {
    let _alone = alone();
    let features = Control::open().unwrap().features(&Bound::standard()).unwrap();
    if !features.has(UBLK_F_NO_AUTO_PART_SCAN.into()) {
        return; // such kernels read the partition table before the disk is there: this server's never is
    }
    offer();
    let (mut server, id) = Beside::server(SERVER, "1");
    let parent = server.child().id();
    let mut helper = None;
    eventually("the change waits", || {
        helper = child_of(parent).filter(|helper| state(*helper) == Some('D'));
        helper.is_some()
    });
    server.child().kill().unwrap();
    server.end("the server");
    eventually("the helper ends", || state(helper.unwrap()).is_none());
    eventually("the disk is gone", || !scheduler_of(id).exists());
    within("the deletion", move || ublk_core::registry::delete(id, false, &Bound::standard())).unwrap();
}

/// A process that another one has started.
fn child_of(parent: u32) -> Option<u32> {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.into_iter().find(|pid| field(*pid, 1).is_some_and(|of| of == parent.to_string()))
}

/// `D` is a sleep that nothing ends but what is waited for. `None` of a process that is not there, or only in name.
fn state(pid: u32) -> Option<char> {
    field(pid, 0)?.chars().next().filter(|state| *state != 'Z')
}

/// What follows the name in `/proc/PID/stat`.
fn field(pid: u32, at: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(at).map(str::to_owned)
}
