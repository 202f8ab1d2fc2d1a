//! Helpers that are real: qemu-nbd, over raw files.
#![cfg(not(miri))] // processes

use super::super::{Nbd, NbdOptions, Qemu};
use super::{Helper, Program};
use crate::backend::Backend;
use crate::claim::{Claims, Place, Role};
use crate::error::ErrorKind;
use std::fs;
use std::path::Path;
use std::process::Command;
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
        instance: "00".into(),
        unclaimed: false,
    }
}

fn options(existing: bool) -> NbdOptions {
    NbdOptions { read_only: false, existing, timeout: Duration::from_secs(10), journal: 0 }
}

/// The processes that serve something below a directory.
fn running(dir: &Path) -> Vec<String> {
    let opened = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(dir));
    let found = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let mut files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let name = fs::read(entry.path().join("comm")).unwrap_or_default();
        name.starts_with(b"qemu-nbd") && files.any(opened)
    });
    found.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn writer(path: &Path) -> fs::File {
    fs::File::options().read(true).write(true).open(path).unwrap()
}

fn place<'a>(path: &'a Path, file: &'a fs::File) -> Place<'a> {
    Place { role: Role::Disk, path, file, writable: true, claimed: true }
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
    let refused = |what: &Qemu| {
        let Err(error) = Nbd::qemu(what, options(false)) else { panic!("two writers of one image") };
        assert_eq!(error.kind, ErrorKind::Busy, "{error}");
        error.message
    };
    refused(&what);
    let image = dir.path().join("image");
    for options in ["driver=raw,file.filename=image", "driver=file,filename=./image"] {
        let other = Qemu { options: options.into(), instance: "2".into(), ..what.clone() };
        let said = refused(&other);
        assert!(said.contains("image is in use: process "), "{said}");
    }
    assert!(Claims::take(&[place(&image, &writer(&image))], Duration::ZERO).is_err());
    let before = running(dir.path());
    let second = Nbd::qemu(&what, options(true)).unwrap();
    first.let_go();
    first.close().unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(running(dir.path()), before);
    second.close().unwrap();
    assert_eq!(running(dir.path()), [""; 0]);
    Claims::take(&[place(&image, &writer(&image))], Duration::ZERO).unwrap();
}

#[test]
fn readers_share_an_image_and_what_it_names_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let base = disk(dir.path());
    let of = |options: &str, instance: &str| Qemu {
        options: options.into(),
        instance: instance.into(),
        ..base.clone()
    };
    let reading = NbdOptions { read_only: true, ..options(false) };
    let one = Nbd::qemu(&base, reading).unwrap();
    let two = Nbd::qemu(&of(&base.options, "2"), reading).unwrap();
    let busy = |what: &Qemu| match Nbd::qemu(what, options(false)) {
        Err(error) => assert_eq!(error.kind, ErrorKind::Busy, "{error}"),
        Ok(_) => panic!("an image that is read is written"),
    };
    busy(&of(&base.options, "3"));
    one.close().unwrap();
    two.close().unwrap();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "image", "over"])
        .current_dir(dir.path())
        .status();
    assert!(made.unwrap().success());
    // Its base is named only in it; then in the options, too.
    for options_of in [
        "driver=qcow2,file.filename=over",
        "driver=qcow2,file.filename=over,backing.driver=raw,backing.file.filename=image",
    ] {
        let over = Nbd::qemu(&of(options_of, "4"), options(false)).unwrap();
        busy(&of(&base.options, "5"));
        busy(&of("driver=qcow2,file.filename=over", "6"));
        over.close().unwrap();
    }
    let unclaimed = Qemu { unclaimed: true, ..base.clone() };
    let one = Nbd::qemu(&unclaimed, options(false)).unwrap();
    let two = Nbd::qemu(&of(&base.options, "7"), options(false)).unwrap();
    one.close().unwrap();
    two.close().unwrap();
}

#[test]
fn what_is_on_no_file_is_claimed_by_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let of = |instance: &str, size: u32| Qemu {
        options: format!("driver=null-co,size={size}"),
        instance: instance.into(),
        ..disk(dir.path())
    };
    let one = Nbd::qemu(&of("1", 1 << 20), options(false)).unwrap();
    let error = Nbd::qemu(&of("2", 1 << 20), options(false)).err().unwrap();
    assert_eq!((error.kind, &*error.message), (ErrorKind::Busy, "another disk is made of the same"));
    let other = Nbd::qemu(&of("3", 2 << 20), options(false)).unwrap();
    other.close().unwrap();
    one.close().unwrap();
    // A process that another test just forks may still have the lock: then the file is swept with the next disk.
    let left = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| !name.as_encoded_bytes().ends_with(b".lock")).collect();
    assert_eq!(left, ["image"]);
}

#[test]
fn one_that_was_killed_is_started_again_by_whoever_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let helper = Helper::new(disk(dir.path()).program(false)).unwrap();
    helper.ensure(false).unwrap();
    // The kernel closes the sockets of what it killed a moment after the files.
    let runs_again = |helper: &Helper| {
        until("another one runs", || {
            helper.ensure(true).unwrap();
            running(dir.path()).len() == 1
        });
    };
    for _ in 0..3 {
        let before = running(dir.path());
        helper.ensure(true).unwrap();
        assert_eq!(running(dir.path()), before);
        kill(&before[0], "-KILL");
        until("it is gone", || running(dir.path()).is_empty());
        runs_again(&helper);
        assert_ne!(running(dir.path()), before);
    }
    // Another process finds the same one, and starts another if that ends once the first one has left.
    let other = Helper::new(disk(dir.path()).program(false)).unwrap();
    kill(&running(dir.path())[0], "-TERM");
    until("it is gone", || running(dir.path()).is_empty());
    runs_again(&helper);
    other.ensure(true).unwrap();
    assert_eq!(running(dir.path()).len(), 1);
    helper.leave();
    let before = running(dir.path());
    kill(&before[0], "-KILL");
    until("it is gone", || running(dir.path()).is_empty());
    runs_again(&other);
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
    let error = Helper::new(program).unwrap().ensure(false).err().unwrap();
    assert_eq!(error.message, "qemu-nbd is not installed");
    // As above: a lock may stay.
    let left = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| !name.as_encoded_bytes().ends_with(b".lock")).collect();
    assert_eq!(left, ["image"]);
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
