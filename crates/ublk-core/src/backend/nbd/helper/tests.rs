//! Helpers that are real: qemu-nbd, over raw files.
#![cfg(not(miri))] // processes

use super::super::{Nbd, NbdOptions, Qemu};
use super::{Helper, Program};
use crate::backend::Backend;
use crate::error::ErrorKind;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 20;

fn disk(dir: &Path) -> Qemu {
    fs::File::create(dir.join("image")).unwrap().set_len(SIZE).unwrap();
    Qemu {
        options: "driver=raw,file.driver=file,file.filename=image".into(),
        key_file: None,
        direct: false,
        directory: dir.into(),
        run_dir: dir.into(),
    }
}

fn options(existing: bool) -> NbdOptions {
    NbdOptions { read_only: false, existing, timeout: Duration::from_secs(10), journal: 0 }
}

/// The processes that serve something below a directory.
fn running(dir: &Path) -> Vec<String> {
    let opened = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(dir));
    let found = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let name = fs::read(entry.path().join("comm")).unwrap_or_default();
        name.starts_with(b"qemu-nbd") && files.map(opened).any(|is_ours| is_ours)
    });
    found.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn kill(pid: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}

#[test]
fn it_ends_with_the_disk_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Nbd::qemu(&disk(dir.path()), options(false)).unwrap();
    assert_eq!(disk.properties().size, SIZE);
    assert!(disk.properties().write_cache);
    assert_eq!(running(dir.path()).len(), 1);
    disk.close().unwrap();
    assert_eq!(running(dir.path()), [""; 0]);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["image"]);
}

#[test]
fn a_second_disk_of_the_same_is_refused_and_the_next_server_gets_the_same_helper() {
    let dir = tempfile::tempdir().unwrap();
    let what = disk(dir.path());
    let first = Nbd::qemu(&what, options(false)).unwrap();
    let Err(error) = Nbd::qemu(&what, options(false)) else { panic!("two writers of one image") };
    assert_eq!(error.kind, ErrorKind::Busy);
    let before = running(dir.path());
    let second = Nbd::qemu(&what, options(true)).unwrap();
    first.let_go();
    first.close().unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(running(dir.path()), before);
    second.close().unwrap();
    assert_eq!(running(dir.path()), [""; 0]);
}

#[test]
fn one_that_was_killed_is_started_again_by_whoever_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let helper = Helper::new(disk(dir.path()).program(false));
    helper.ensure(false).unwrap();
    for _ in 0..3 {
        let before = running(dir.path());
        helper.ensure(true).unwrap();
        assert_eq!(running(dir.path()), before);
        kill(&before[0], "-KILL");
        until("it is gone", || running(dir.path()).is_empty());
        helper.ensure(true).unwrap();
        assert_ne!(running(dir.path()), before);
    }
    // Another process finds the same one, and starts another if that ends meanwhile.
    let other = Arc::new(Helper::new(disk(dir.path()).program(false)));
    kill(&running(dir.path())[0], "-TERM");
    other.ensure(true).unwrap();
    helper.ensure(true).unwrap();
    assert_eq!(running(dir.path()).len(), 1);
    helper.leave();
    other.end().unwrap();
    assert_eq!(running(dir.path()), [""; 0]);
}

#[test]
fn one_that_cannot_serve_says_why_and_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |options: &str| {
        let what = Qemu { options: options.into(), ..disk(dir.path()) };
        Nbd::qemu(&what, self::options(false)).err().unwrap()
    };
    let missing = refused("driver=vmdk,file.filename=missing");
    assert!(missing.message.contains("No such file"), "{}", missing.message);
    let wrong = refused("driver=vmdk,file.filename=image");
    assert!(wrong.message.starts_with("qemu-nbd cannot serve the disk: "), "{}", wrong.message);
    assert!(refused("driver=nonsense").hint.is_some());
    let program = Program { command: vec!["/missing/qemu-nbd".into()], ..disk(dir.path()).program(false) };
    let error = Helper::new(program).ensure(false).err().unwrap();
    assert_eq!(error.message, "qemu-nbd is not installed");
    let vmdk = dir.path().join("vmdk");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "vmdk"]).arg(&vmdk).arg("1M").status();
    assert!(made.unwrap().success());
    let mut holder = Command::new("qemu-nbd")
        .args(["-t", "-f", "vmdk", "-k"])
        .arg(dir.path().join("other.socket"))
        .arg(&vmdk)
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    until("it has the image", || !running(dir.path()).is_empty());
    assert_eq!(refused("driver=vmdk,file.filename=vmdk").kind, ErrorKind::Busy);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(running(dir.path()), [""; 0]);
}

#[test]
fn what_a_removed_disk_has_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, socket) = (dir.path().join("helper-1.lock"), dir.path().join("helper-1.socket"));
    fs::write(&lock, "").unwrap();
    fs::write(&socket, "").unwrap();
    let disk = Nbd::qemu(&disk(dir.path()), options(false)).unwrap();
    assert!(!lock.exists() && !socket.exists());
    disk.close().unwrap();
}
