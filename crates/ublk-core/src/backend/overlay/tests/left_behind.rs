//! What a commit of a disk in use leaves: layers that it could not remove or must not touch, and what the next server makes of it.

use super::flatten::content;
use super::live_commit::{commit, files, interrupted, made, of_file};
use super::snapshots::{beside, queues, snapshot};
use super::*;
use std::os::unix::fs::MetadataExt;

/// A fork of one of the snapshots that are removed is in use, and its files are not claimed.
#[test]
fn a_layer_that_others_have_open_stays_as_it_is_until_they_close_it() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path, one) = (base_file(&dir, 64), dir.path().join("upper"), dir.path().join("upper.one"));
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    snapshot(&disk, &mut benches, "one").unwrap();
    let fork = Overlay::over_snapshot(open(&base), &one, &dir.path().join("fork"), None, false);
    let mut readers = queues(&Arc::new(fork.unwrap()));
    write(&mut benches[0], 8, 8, 2).unwrap();
    let [layer, own] =
        [1, 2].map(|number| disk.layers.of(number).kept.as_ref().unwrap().upper.file().clone());
    let bytes = |file: &std::fs::File| file.metadata().unwrap().blocks() * 512;
    let before = bytes(&layer);
    beside(&mut benches, || commit(&disk, true, &|| false)).unwrap();
    assert_eq!(files(&dir), ["base", "fork", "upper"]);
    assert_eq!(read(&mut readers[0], 0, 8), [1; 4096]);
    assert_eq!(bytes(&layer), before);
    // The other one was this disk's alone.
    assert_eq!(bytes(&own), 4096);
    let expected: Vec<u8> = (0..64).map(|at| if at < 16 { at as u8 / 8 + 1 } else { pattern(at) }).collect();
    assert_eq!(content(&mut benches[1], 64), expected);
}

/// The base has all of it by then. The directory of the layers cannot be found any more, so they cannot be removed.
#[test]
fn a_commit_whose_layers_cannot_be_removed_has_succeeded_all_the_same() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path, moved) =
        (base_file(&dir, 64), dir.path().join("upper"), dir.path().with_extension("moved"));
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    let layer = dir.path().join("upper.commit~1");
    let move_it = || {
        if layer.exists() {
            std::fs::rename(dir.path(), &moved).unwrap();
        }
        false
    };
    let done = beside(&mut benches, || commit(&disk, false, &move_it));
    assert!(!dir.path().exists(), "it was moved");
    std::fs::rename(&moved, dir.path()).unwrap();
    done.unwrap();
    assert_eq!(files(&dir), ["base", "upper", "upper.commit~1"]);
    let expected: Vec<u8> = (0..64).map(|at| if at < 8 { 1 } else { pattern(at) }).collect();
    assert_eq!(of_file(&base), expected);
    assert_eq!(content(&mut benches[0], 64), expected);
    // The next server removes it.
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    drop(made(&base, &path));
    assert_eq!(files(&dir), ["base", "upper"]);
}

/// Another server goes on with a commit, or begins one, before the first one takes the disk back.
#[test]
fn a_disk_whose_commit_did_not_end_is_taken_back_and_one_that_another_server_has_committed_is_not() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let first = made(&base, &path);
    let mut benches = queues(&first);
    write(&mut benches[0], 0, 8, 1).unwrap();
    assert!(beside(&mut benches, || interrupted(&first, 1)).is_err());
    beside(&mut benches, || first.let_go());
    let mut expected: Vec<u8> = (0..64).map(pattern).collect();
    expected[..8].fill(1);
    first.take_back(64 * SECTOR).unwrap();
    benches = queues(&first);
    assert_eq!(content(&mut benches[0], 64), expected);
    beside(&mut benches, || first.let_go());
    let second = made(&base, &path);
    let mut others = queues(&second);
    write(&mut others[1], 8, 8, 2).unwrap();
    expected[8..16].fill(2);
    beside(&mut others, || second.let_go());
    first.take_back(64 * SECTOR).unwrap();
    benches = queues(&first);
    assert_eq!(content(&mut benches[0], 64), expected);
    beside(&mut benches, || first.let_go());
    second.take_back(64 * SECTOR).unwrap();
    others = queues(&second);
    beside(&mut others, || commit(&second, false, &|| false)).unwrap();
    assert_eq!(of_file(&base), expected);
    beside(&mut others, || second.close()).unwrap();
    let message = refused(first.take_back(64 * SECTOR));
    assert!(message.ends_with("was used for something else meanwhile"), "{message}");
}

/// The files of the layers stay behind if the server is killed when they are not needed any more: the next one removes them.
#[test]
fn layers_that_the_base_has_are_removed_by_the_next_server() {
    let expected: Vec<u8> = (0..64).map(|at| if at < 16 { at as u8 / 8 + 1 } else { pattern(at) }).collect();
    for removed in 0..3 {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
        let disk = made(&base, &path);
        let mut benches = queues(&disk);
        for (at, name) in [(0, "one"), (1, "two")] {
            write(&mut benches[0], at * 8, 8, at as u8 + 1).unwrap();
            snapshot(&disk, &mut benches, name).unwrap();
        }
        beside(&mut benches, || disk.close()).unwrap();
        drop((benches, disk));
        let (disk, file) =
            (open(&base), std::fs::File::options().read(true).write(true).open(&base).unwrap());
        let name = identity_of(&*disk).unwrap();
        let shape = Shape { size: 64 * SECTOR, block_size: 512, base: &name, ..Shape::default() };
        let layers = Upper::open_chain(&path, &shape, false).unwrap();
        let (top, below) = layers.split_last().unwrap();
        let copying = upper::Copying {
            base: &file,
            size: 64 * SECTOR,
            most: 4096,
            pace: &mut |_, _| Ok(()),
            room: &|_| Ok(()),
        };
        let stamp = || file.set_modified(std::time::SystemTime::now());
        let now = || Ok(identity_of(&*disk).unwrap());
        let into = which_file(&*disk).unwrap().unwrap();
        let put = upper::Put { copying, into, stamp: &stamp };
        top.put_below(&below.iter().collect::<Vec<_>>(), put, &now).unwrap();
        drop(layers);
        // Somebody may still read one of them.
        let reads = std::fs::File::open(dir.path().join("upper.one")).unwrap();
        crate::claim::share(&path, &reads).unwrap();
        let before = reads.metadata().unwrap().blocks();
        for name in ["upper.one", "upper.two"].iter().take(removed) {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        let disk = made(&base, &path);
        assert_eq!(files(&dir), ["base", "upper"]);
        let after = reads.metadata().unwrap().blocks();
        assert_eq!(after, before, "it stays as it is for those who have it open");
        assert_eq!(content(&mut queues(&disk)[0], 64), expected);
        assert_eq!(of_file(&base), expected);
    }
}
