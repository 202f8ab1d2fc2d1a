//! Layers, snapshots and forks.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges are what is compared")]

use super::file::{Place, SIZE, present, reboot, shape, write};
use crate::backend::overlay::upper::format::ATOM;
use crate::backend::overlay::upper::{Shape, Upper, Uuid};
use crate::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn chain(path: &Path) -> Vec<Upper> {
    Upper::open_chain(path, &shape(), false).unwrap()
}

fn refused(path: &Path) -> Error {
    let error = Upper::open_chain(path, &shape(), false).err().unwrap();
    assert!(!error.to_string().contains('\n') && error.hint.is_some(), "{error}");
    error
}

/// A disk with some snapshots, each with a block of its own.
fn with_snapshots(place: &Place, names: &[&str]) {
    let mut upper = std::sync::Arc::new(Upper::create(&place.at("vm1.cow"), &shape()).unwrap());
    for (at, name) in (0..).zip(names) {
        write(&upper, at * 4096..at * 4096 + 4096, 1);
        let new = upper.snapshot(name).unwrap();
        upper.seal().unwrap();
        upper = new;
    }
    let last = names.len() as u64 * 4096;
    write(&upper, last..last + 4096, 1);
}

#[test]
fn a_snapshot_keeps_the_path_for_what_is_written() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    with_snapshots(&place, &["monday", "tuesday"]);
    assert_eq!(place.names(), ["vm1.cow", "vm1.cow.monday", "vm1.cow.tuesday"]);
    let layers = chain(&path);
    assert_eq!(layers.iter().map(present).collect::<Vec<_>>(), [[0..4096], [4096..8192], [8192..12_288]]);
    assert_eq!(layers.iter().map(Upper::is_sealed).collect::<Vec<_>>(), [true, true, false]);
    let names: Vec<_> = layers.iter().map(|layer| layer.path().to_owned()).collect();
    assert_eq!(names, [place.at("vm1.cow.monday"), place.at("vm1.cow.tuesday"), path]);
    let taken = layers[2].snapshot("monday").err().unwrap();
    assert!(taken.message.contains("vm1.cow.monday exists already"), "{taken}");
    for name in ["", "a/b", "../x"] {
        assert!(layers[2].snapshot(name).is_err());
    }
    assert_eq!(place.names().len(), 3);
}

#[test]
fn forks_share_what_is_below_them() {
    let place = Place::new();
    with_snapshots(&place, &["golden"]);
    let layers = chain(&place.at("vm1.cow"));
    assert!(layers[1].fork(&place.at("vm2.cow")).err().unwrap().message.contains("is written"));
    let fork = layers[0].fork(&place.at("vm2.cow")).unwrap();
    write(&fork, 40_960..45_056, 2);
    drop(fork);
    let other = chain(&place.at("vm2.cow"));
    assert_eq!((present(&other[0]), present(&other[1])), (vec![0..4096], vec![40_960..45_056]));
    let elsewhere = Place::new();
    let refused = layers[0].fork(&elsewhere.at("vm3.cow")).err().unwrap();
    assert!(refused.message.contains("is not in the directory of"), "{refused}");
    let sealed = Upper::open(&place.at("vm1.cow.golden"), &shape(), false).err().unwrap();
    assert!(sealed.message.contains("is sealed"), "{sealed}");
}

/// The process is killed between the steps of a snapshot.
#[test]
fn a_snapshot_that_was_interrupted_is_ended_or_made_again() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let upper = Upper::create(&path, &shape()).unwrap();
    write(&upper, 0..4096, 1);
    // Before the names were exchanged.
    let new = upper.snapshot("one").unwrap();
    fs::rename(&path, place.at("new")).unwrap();
    fs::rename(place.at("vm1.cow.one"), &path).unwrap();
    fs::rename(place.at("new"), place.at("vm1.cow.one")).unwrap();
    drop((new, upper));
    let upper = chain(&path).remove(0);
    assert_eq!(present(&upper), [0..4096]);
    // After that, and before the layer below was sealed: writes to it went on.
    let new = upper.snapshot("one").unwrap();
    write(&upper, 4096..8192, 1);
    write(&new, 8192..12_288, 1);
    drop((new, upper));
    let layers = chain(&path);
    assert_eq!((present(&layers[0]), present(&layers[1])), (vec![0..8192], vec![8192..12_288]));
    assert!(layers[0].is_sealed());
    drop(layers);
    // The power has failed: it is sealed with what was saved.
    reboot(&path);
    reboot(&place.at("vm1.cow.one"));
    assert_eq!(present(&chain(&path)[0]), [0..8192]);
    assert!(present(&chain(&path)[1]).is_empty());
}

/// A file system without such an exchange.
#[test]
fn a_second_name_that_an_interrupted_snapshot_left_is_no_snapshot() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let upper = Upper::create(&path, &shape()).unwrap();
    write(&upper, 0..4096, 1);
    fs::hard_link(&path, place.at("vm1.cow.one")).unwrap();
    fs::write(place.at("vm1.cow.one.new"), "half").unwrap();
    let new = upper.snapshot("one").unwrap();
    upper.seal().unwrap();
    drop((new, upper));
    assert_eq!(chain(&path).len(), 2);
}

#[test]
fn a_chain_that_does_not_fit_is_refused_with_what_is_wrong() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    with_snapshots(&place, &["a", "b"]);
    let (a, b) = (place.at("vm1.cow.a"), place.at("vm1.cow.b"));
    // A hole.
    fs::rename(&b, place.at("away")).unwrap();
    assert!(refused(&path).message.contains("vm1.cow.b, which does not exist"), "{}", refused(&path));
    // Another file with that name.
    fs::copy(&a, &b).unwrap();
    assert!(refused(&path).message.contains("was made over another snapshot than"), "{}", refused(&path));
    // A link out of the directory.
    fs::remove_file(&b).unwrap();
    std::os::unix::fs::symlink(place.at("away"), &b).unwrap();
    assert_eq!(refused(&path).errno, Some(libc::ELOOP));
    fs::rename(place.at("away"), &b).unwrap();
    // Another base.
    let other = Shape { base: "other.img", ..shape() };
    let error = Upper::open_chain(&path, &other, false).err().unwrap();
    assert!(error.message.contains("the base is other.img"), "{error}");
    assert_eq!(chain(&path).len(), 3);
    // A circle: the lowest is said to be over the one above it.
    let mut page = [0; ATOM];
    let file = OpenOptions::new().read(true).write(true).open(&a).unwrap();
    file.read_exact_at(&mut page, 0).unwrap();
    let uuid = Upper::open(&b, &shape(), true).unwrap().uuid();
    assert_ne!(uuid, Uuid::NONE);
    page[136..152].copy_from_slice(&uuid.0);
    page[128] = 9;
    file.write_all_at(&page, 0).unwrap();
    file.write_all_at(b"vm1.cow.b", 2048).unwrap();
    assert!(refused(&path).message.contains("leads back to it"), "{}", refused(&path));
}

#[test]
fn a_chain_has_at_most_16_layers() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    let names: Vec<String> = (0..15).map(|number| number.to_string()).collect();
    with_snapshots(&place, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let layers = chain(&path);
    assert_eq!(layers.len(), 16);
    assert_eq!(layers.iter().flat_map(present).map(|range| range.end - range.start).sum::<u64>(), 16 * 4096);
    layers[15].snapshot("16").unwrap();
    drop(layers);
    assert!(refused(&path).message.contains("has more than 16 layers"), "{}", refused(&path));
}

#[test]
fn a_reset_throws_away_what_was_written_and_keeps_the_layers_below() {
    let place = Place::new();
    let path = place.at("vm1.cow");
    with_snapshots(&place, &["golden"]);
    let mut layers = chain(&path);
    let upper = layers.pop().unwrap();
    upper.save().unwrap();
    write(&upper, 1 << 20..2 << 20, 3);
    upper.reset().unwrap();
    assert!(present(&upper).is_empty() && !upper.unsaved());
    assert!(upper.file().metadata().unwrap().len() == upper.data_offset() + SIZE);
    write(&upper, 0..512, 4);
    upper.save().unwrap();
    drop((upper, layers));
    let layers = chain(&path);
    assert_eq!((present(&layers[0]), present(&layers[1])), (vec![0..4096], vec![0..512]));
}
