//! What is refused, in one line each.

use super::{create, qemu, qemu_ok, text};
use crate::{Options, Qcow2};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use ublk_core::backend::Backend;

fn refusal(path: &Path, options: &Options) -> String {
    let error = Qcow2::open(path, options).err().expect("it is refused");
    assert!(!error.to_string().contains('\n'));
    error.message
}

fn allowing(backing: &[&Path]) -> Options {
    let backing: Vec<PathBuf> = backing.iter().map(|path| path.to_path_buf()).collect();
    Options { backing, ..Options::default() }
}

/// Sets bytes of a file.
fn set(path: &Path, at: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let name = text(&path);
    let read_only = Options { read_only: true, ..Options::default() };
    let ends = |options: &str, end: &str| {
        create(&path, options, "1M");
        assert_eq!(refusal(&path, &read_only), format!("{name} {end}"));
    };
    ends("extended_l2=on,cluster_size=64k", "has extended L2 entries");
    let data = format!("data_file_raw=on,data_file={}", text(&dir.path().join("data")));
    ends(&data, "keeps its data in another file");
    ends("compression_type=zstd", "is compressed in another way than by zlib");
    let luks = ["create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=abc", "-o"];
    let luks = [&luks[..], &["encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10", name, "1M"]]
        .concat();
    // QEMU times its key derivation in CPU time, and gives up where the clock has not moved yet.
    let unlucky = |output: &Output| String::from_utf8_lossy(&output.stderr).contains("accurate CPU usage");
    let made = (0..50).map(|_| qemu("qemu-img", &luks)).find(|output| !unlucky(output));
    assert!(made.expect("50 times no key").status.success());
    assert_eq!(refusal(&path, &read_only), format!("{name} is encrypted with LUKS"));
    create(&path, "compat=1.1", "1M");
    for (bits, end) in [
        (1_u8, "was not closed: its dirty bit is set, and its reference counts may be wrong"),
        (2, "is marked as corrupt"),
        (32, "needs unknown features (0x20)"),
    ] {
        set(&path, 79, &[bits]);
        assert_eq!(refusal(&path, &read_only), format!("{name} {end}"));
    }
    fs::write(&path, [0; 1024]).unwrap();
    assert_eq!(refusal(&path, &read_only), format!("{name} is not a qcow2 image"));
    fs::write(&path, b"QFI\xfb\0\0\0\x03").unwrap();
    assert_eq!(refusal(&path, &read_only), format!("{name} is damaged: its header is not complete"));
    create(&path, "compat=1.1", "1M");
    qemu_ok("qemu-img", &["snapshot", "-c", "one", name]);
    assert_eq!(
        refusal(&path, &Options::default()),
        format!("{name} has snapshots inside, and cannot be written to")
    );
    Qcow2::open(&path, &read_only).unwrap();
}

#[test]
fn a_backing_file_is_opened_only_where_that_is_allowed_and_with_its_stated_format() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    let (image, base, secret) = (inside.join("image"), inside.join("base"), outside.clone());
    fs::write(&base, [1; 4096]).unwrap();
    fs::write(&secret, [2; 4096]).unwrap();
    let over = |below: &str| create(&image, &format!("backing_file={below},backing_fmt=raw"), "1M");
    over("base");
    let refused = refusal(&image, &Options::default());
    assert!(refused.ends_with("/inside/base, which may not be opened"), "{refused}");
    for allowed in [&base, &inside] {
        let opened = Qcow2::open(&image, &allowing(&[allowed])).unwrap();
        let places = opened.places();
        assert_eq!(places.iter().map(|place| place.writable).collect::<Vec<_>>(), [true, false]);
    }
    over("../outside");
    assert!(refusal(&image, &allowing(&[&inside])).ends_with(", which may not be opened"));
    // A link that leads elsewhere.
    over("base");
    fs::remove_file(&base).unwrap();
    std::os::unix::fs::symlink(&secret, &base).unwrap();
    assert!(refusal(&image, &allowing(&[&inside])).ends_with(", which may not be opened"));
    fs::remove_file(&base).unwrap();
    assert!(refusal(&image, &allowing(&[&inside])).starts_with("cannot open "));
    fs::write(&base, [1; 4096]).unwrap();
    create(&image, "compat=0.10,backing_file=base,backing_fmt=raw", "1M");
    let without = inside.join("without");
    fs::copy(&image, &without).unwrap();
    // The extension that states the format becomes another.
    set(&without, 72, &[0x12]);
    let refused = refusal(&without, &allowing(&[&inside]));
    assert!(refused.ends_with("does not state the format of its backing file base"), "{refused}");
    qemu_ok("qemu-img", &["rebase", "-u", "-b", "nbd://localhost/x", "-F", "raw", text(&image)]);
    let refused = refusal(&image, &allowing(&[&inside]));
    assert!(refused.ends_with("has the backing file nbd://localhost/x, by the protocol nbd"), "{refused}");
    qemu_ok("qemu-img", &["rebase", "-u", "-b", "image", "-F", "qcow2", text(&image)]);
    assert!(refusal(&image, &allowing(&[&inside])).ends_with("is below itself"));
}
