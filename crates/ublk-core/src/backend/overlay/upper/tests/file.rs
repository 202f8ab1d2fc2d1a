//! Uppers in files.

use crate::backend::overlay::upper::format::{BOOT, Header, PAGE};
use crate::backend::overlay::upper::{Parent, Shape, Upper, Uuid};
use crate::error::{Error, ErrorKind};
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

pub const SIZE: u64 = 1 << 30;

pub fn shape() -> Shape<'static> {
    Shape {
        size: SIZE,
        block_size: 512,
        base: "base.img with 1073741824 bytes",
        parent: None,
        alone: false,
        committing: false,
        file: None,
    }
}

pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub fn present(upper: &Upper) -> Vec<Range<u64>> {
    let mut all = Vec::new();
    upper.present(&mut |range| all.push(range)).unwrap();
    all.sort_by_key(|range| range.start);
    all
}

/// The same steps as a write.
pub fn write(upper: &Upper, range: Range<u64>, byte: u8) {
    let bytes = vec![byte; (range.end - range.start) as usize];
    upper.file().write_all_at(&bytes, upper.data_offset() + range.start).unwrap();
    upper.note(range).unwrap();
}

/// As if the machine had been booted again.
pub fn reboot(path: &Path) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[b'x'; 36], BOOT.start as u64).unwrap();
}

fn refused(path: &Path, shape: &Shape<'_>) -> Error {
    let before = fs::metadata(path).ok().map(|found| (found.len(), found.mtime_nsec(), found.mtime()));
    let error = Upper::open(path, shape, false).err().unwrap();
    let after = fs::metadata(path).ok().map(|found| (found.len(), found.mtime_nsec(), found.mtime()));
    assert!(!error.to_string().contains('\n') && error.hint.is_some(), "{error}");
    assert_eq!(before, after, "a refused file is left unchanged");
    error
}

#[test]
fn a_new_upper_is_empty_takes_little_space_and_is_for_its_owner_alone() {
    let place = Place::new();
    let upper = Upper::create(&place.at("vm1.cow"), &shape()).unwrap();
    assert!(present(&upper).is_empty() && !upper.unsaved() && upper.parent().is_none());
    let found = upper.file().metadata().unwrap();
    assert!(found.blocks() * 512 <= 8192, "{} blocks", found.blocks());
    assert_eq!(found.len(), upper.data_offset() + SIZE);
    assert_eq!(found.permissions().mode() & 0o777 & !0o600, 0);
    assert!(upper.data_offset().is_multiple_of(1 << 20));
    assert_eq!(place.names(), ["vm1.cow"]);
    let again = Upper::create(&place.at("vm1.cow"), &shape()).err().unwrap();
    assert!(again.message.contains("exists already"), "{again}");
}

#[test]
fn a_kill_is_survived_by_all_and_a_boot_by_what_was_saved() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let upper = Upper::create(&path, &shape()).unwrap();
    write(&upper, 0..8192, 1);
    write(&upper, 10_240..10_752, 1);
    assert!(upper.unsaved());
    upper.save().unwrap();
    assert!(!upper.unsaved());
    write(&upper, 1 << 20..(1 << 20) + 512, 1);
    drop(upper);
    let upper = Upper::open(&path, &shape(), false).unwrap();
    let all = [0..8192, 10_240..10_752, 1 << 20..(1 << 20) + 512];
    assert_eq!(present(&upper), all);
    assert!(upper.unsaved(), "a flush has to save what the last server did not");
    write(&upper, 12_288..16_384, 1);
    drop(upper);
    reboot(&path);
    let upper = Upper::open(&path, &shape(), false).unwrap();
    assert_eq!(present(&upper), all[..2]);
    assert!(!upper.unsaved());
    drop(upper);
    assert_eq!(present(&Upper::open(&path, &shape(), false).unwrap()), all[..2], "nothing comes back");
}

#[test]
fn what_an_open_leaves_half_saved_is_saved_by_the_next_flush() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    write(&Upper::create(&path, &shape()).unwrap(), 0..512, 1);
    let upper = Upper::open(&path, &shape(), false).unwrap();
    write(&upper, 4096..8192, 1);
    upper.save().unwrap();
    drop(upper);
    reboot(&path);
    assert_eq!(present(&Upper::open(&path, &shape(), false).unwrap()), [0..512, 4096..8192]);
}

#[test]
fn a_wrong_upper_is_refused_with_what_is_wrong() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let upper = Upper::create(&path, &shape()).unwrap();
    let in_use = refused(&path, &shape());
    assert_eq!(in_use.kind, ErrorKind::Busy);
    assert!(in_use.to_string().ends_with("an upper serves one disk at a time"), "{in_use}");
    drop(upper);
    let parent = Some(Parent { uuid: Uuid([1; 16]), name: "other".into() });
    let others = [
        (Shape { size: SIZE * 2, ..shape() }, "is of a disk of 1073741824 bytes, not 2147483648"),
        (Shape { block_size: 4096, ..shape() }, "is of a disk with blocks of 512 bytes, not 4096"),
        (
            Shape { base: "base.img with 7 bytes", ..shape() },
            "was made over base.img with 1073741824 bytes, and the base is base.img with 7 bytes",
        ),
        (Shape { parent, ..shape() }, "was made over another snapshot"),
    ];
    for (shape, what) in others {
        let error = refused(&path, &shape);
        assert!(error.message.contains(what), "{error}");
    }
    let length = fs::metadata(&path).unwrap().len();
    let good = {
        let mut page = [0; PAGE as usize];
        File::open(&path).unwrap().read_exact_at(&mut page, 0).unwrap();
        page
    };
    let with = |at: usize, byte: u8| {
        let mut page = good;
        page[at] = byte;
        page
    };
    for (page, length, what) in [
        (good, length - 1, "was truncated"),
        (good, 4096, "was truncated"),
        (good, 0, "is empty"),
        (with(0, b'x'), length, "is no upper"),
        (with(16, 2), length, "is from a newer version of ublk-ts (format 2)"),
        (with(31, 255), length, "is damaged"),
        (with(112, 9), length, "is damaged"),
    ] {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        if length > 0 {
            file.write_all_at(&page, 0).unwrap();
        }
        file.set_len(length).unwrap();
        drop(file);
        let error = refused(&path, &shape());
        assert!(error.message.contains(what), "{error}");
    }
    let missing = Upper::open(&place.at("none"), &shape(), false).err().unwrap();
    assert_eq!(missing.errno, Some(libc::ENOENT));
    let directory = Upper::open(place.0.path(), &shape(), true).err().unwrap();
    assert!(directory.message.contains("is no regular file"), "{directory}");
}

#[test]
fn any_bytes_are_an_upper_or_refused() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let upper = Upper::create(&path, &shape()).unwrap();
    write(&upper, 0..9000 / 512 * 512, 1);
    drop(upper);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut good = [0; PAGE as usize];
    file.read_exact_at(&mut good, 0).unwrap();
    let log = Header::of(&path, &good).unwrap().layout.log(0).start;
    let rounds = std::env::var("UBLK_TS_FUZZ").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1500);
    let mut next = super::crash::numbers(0x9e37_79b9_7f4a_7c15);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..rounds {
        let mut page = good;
        for _ in 0..next(6) {
            let at = if next(2) == 0 { next(176) } else { next(page.len()) };
            page[at] = next(256) as u8;
        }
        file.write_all_at(&page, 0).unwrap();
        let entry: Vec<u8> = (0..64).map(|_| next(256) as u8).collect();
        file.write_all_at(&entry, log).unwrap();
        match Upper::open(&path, &shape(), next(4) == 0) {
            Ok(upper) => {
                opened += 1;
                assert!(present(&upper).iter().all(|range| range.start < range.end && range.end <= SIZE));
                if !upper.read_only {
                    upper.save().unwrap();
                }
            }
            Err(error) => {
                refused += 1;
                assert!(!error.message.contains('\n') && error.message.contains("upper"), "{error}");
            }
        }
    }
    assert!(opened > rounds / 20 && refused > rounds / 20, "{opened} opened, {refused} refused");
}

#[test]
fn one_save_answers_all_who_asked_before_it_and_its_thread_ends() {
    let place = Place::new();
    let upper = Upper::create(&place.at("vm1.cow"), &shape()).unwrap();
    let (told, answers) = mpsc::channel();
    for at in 0..100 {
        write(&upper, at * 4096..at * 4096 + 4096, 1);
        let told = told.clone();
        upper.save_then(Box::new(move |saved| told.send(saved).unwrap()));
    }
    drop(told);
    assert_eq!(answers.iter().collect::<Vec<_>>(), [Ok(()); 100]);
    assert!(!upper.unsaved());
    upper.let_go();
    assert_eq!(Arc::strong_count(&upper.store), 1, "no thread is left");
    drop(Upper::open(&place.at("vm1.cow"), &shape(), false).unwrap());
}

#[test]
fn a_log_that_grows_is_saved_without_a_flush() {
    let place = Place::new();
    let upper = Upper::create(&place.at("vm1.cow"), &shape()).unwrap();
    (0..70_000).for_each(|at| upper.note(at * 8192..at * 8192 + 4096).unwrap());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while upper.store.pending() > 10_000 {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn an_upper_that_is_cut_short_in_use_fails_its_flush_and_ends_no_process() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let upper = Upper::create(&path, &shape()).unwrap();
    write(&upper, 0..4096, 1);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(100_000).unwrap();
    assert!(upper.save().err().unwrap().message.contains("was truncated"));
    assert!(upper.failed() && upper.save().is_err());
}

#[test]
fn notes_of_several_queues_are_all_there_after_a_kill() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let upper = Upper::create(&path, &shape()).unwrap();
    let saves = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for queue in 0..4_u64 {
            let upper = &upper;
            scope.spawn(move || {
                for at in 0..500 {
                    let from = (at * 4 + queue) * 8192;
                    upper.note(from..from + 512 * (1 + at % 9)).unwrap();
                }
            });
        }
        scope.spawn(|| {
            while saves.fetch_add(1, SeqCst) < 10 {
                upper.save().unwrap();
            }
        });
    });
    drop(upper);
    let upper = Upper::open(&path, &shape(), false).unwrap();
    let found = present(&upper);
    for number in 0..2000_u64 {
        let from = number * 8192;
        let length = 512 * (1 + number / 4 % 9);
        let has = |at: u64| found.iter().any(|range| range.contains(&at));
        assert!(has(from) && has(from + length - 1) && !has(from + length), "{number}");
    }
}

/// A power failure leaves any part of the log, also a later one without what was before it.
#[test]
fn entries_that_a_power_failure_left_behind_a_gap_never_count_again() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let blocks = |from: u64, count: u64| (from..from + count).map(|at| at * 8192..at * 8192 + 4096);
    let log = {
        let upper = Upper::create(&path, &shape()).unwrap();
        blocks(0, 2000).for_each(|range| upper.note(range).unwrap());
        upper.store.layout().log(0).start
    };
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4096], log).unwrap(); // the first 512 entries
    reboot(&path);
    {
        let upper = Upper::open(&path, &shape(), false).unwrap();
        assert_eq!(present(&upper), []);
        blocks(10_000, 512).for_each(|range| upper.note(range).unwrap());
    }
    let upper = Upper::open(&path, &shape(), false).unwrap(); // after a kill
    assert_eq!(present(&upper), blocks(10_000, 512).collect::<Vec<_>>());
}

/// The kernel reports a failed write-back once: the next server could not know.
#[test]
fn a_server_that_takes_over_after_a_failed_sync_fails_flushes_and_new_writes_until_the_disk_is_made_again() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    {
        let upper = Upper::create(&path, &shape()).unwrap();
        write(&upper, 0..4096, 1);
        upper.save().unwrap();
        write(&upper, 8192..12_288, 2);
        upper.poison();
        assert!(upper.note(16_384..20_480).is_err(), "it would be lost at the next start");
    }
    for _ in 0..2 {
        let upper = Upper::open(&path, &shape(), false).unwrap();
        upper.goes_on();
        assert!(upper.failed() && upper.unsaved() && upper.save().is_err());
        assert_eq!(present(&upper), std::slice::from_ref(&(0..4096)));
    }
    let upper = Upper::open(&path, &shape(), false).unwrap();
    assert!(!upper.failed() && !upper.unsaved());
    write(&upper, 8192..12_288, 3);
    upper.save().unwrap();
    drop(upper);
    let upper = Upper::open(&path, &shape(), false).unwrap();
    upper.goes_on();
    assert!(!upper.failed());
    assert_eq!(present(&upper), [0..4096, 8192..12_288]);
}

#[test]
fn an_upper_that_is_only_read_is_not_changed_and_has_to_be_saved() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    {
        let upper = Upper::create(&path, &shape()).unwrap();
        write(&upper, 0..4096, 1);
    }
    let error = Upper::open(&path, &shape(), true).err().unwrap().to_string();
    assert!(error.contains("has writes that its last server, which was killed, did not save"), "{error}");
    Upper::open(&path, &shape(), false).unwrap().save().unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let upper = Upper::open(&path, &shape(), true).unwrap();
    assert!(!upper.unsaved() && upper.save().is_ok());
    drop(upper);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}
