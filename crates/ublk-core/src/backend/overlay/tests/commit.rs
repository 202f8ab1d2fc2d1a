//! Uppers that are put into their base.

use super::flatten::content;
use super::snapshots::{beside, queues, snapshot};
use super::*;

#[test]
fn a_base_has_what_the_disk_had_after_a_commit_that_was_interrupted_anywhere() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    for (round, size) in [8192, 8192, 9000, 5000].into_iter().enumerate() {
        let (base, path) = (base_file(&dir, 8192), dir.path().join("upper"));
        let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
        let mut benches = queues(&disk);
        let mut model: Vec<u8> = (0..8192).map(pattern).collect();
        let mut fill = |benches: &mut [Bench; 2], sector: u64, length: u64, value: u8| {
            write(&mut benches[0], sector, length, value).unwrap();
            model[sector as usize..(sector + length) as usize].fill(value);
        };
        fill(&mut benches, 100, 100, 1);
        fill(&mut benches, 4000, 64, 2);
        if round > 0 {
            snapshot(&disk, &mut benches, "one").unwrap();
        }
        fill(&mut benches, 150, 10, 3);
        fill(&mut benches, 4096, 16, 0);
        let discard = Descriptor::new(Op::Discard, 2048 * SECTOR, 512 * SECTOR);
        assert!(serve(&mut benches[1], discard).is_ok());
        model[2048..2560].fill(0);
        if size != 8192 {
            disk.resize(8192 * SECTOR, size * SECTOR).unwrap();
            model.resize(size as usize, 0);
        }
        let busy = Overlay::commit(&path, &base, true, &|| false);
        assert!(refused(busy).contains("is in use"));
        assert_eq!(content(&mut benches[0], size), model);
        beside(&mut benches, || disk.close()).unwrap();
        drop((benches, disk));
        if round > 0 {
            let message = refused(Overlay::commit(&path, &base, false, &|| false));
            assert_eq!(message, format!("the upper {} is over 1 snapshots", path.display()));
        }
        // Interrupted after each of its parts.
        for parts in 0.. {
            let left = std::cell::Cell::new(parts);
            let given_up = || left.replace(left.get() - 1) == 0;
            match Overlay::commit(&path, &base, true, &given_up) {
                Ok(()) => break,
                Err(error) => assert_eq!(error.message, "the commit was interrupted"),
            }
            let message = refused(Overlay::in_file(open(&base), &path, None, false));
            assert_eq!(
                message,
                format!("the upper {} was being put into its base, and that was interrupted", path.display())
            );
            assert!(parts < 100);
        }
        assert!(!path.exists());
        let bytes = std::fs::read(&base).unwrap();
        let found: Vec<u8> = bytes.iter().copied().step_by(SECTOR as usize).collect();
        assert_eq!(found, model, "round {round}");
        let whole = bytes.chunks(SECTOR as usize).all(|sector| sector.iter().all(|byte| *byte == sector[0]));
        assert!(whole);
        let _ = std::fs::remove_file(dir.path().join("upper.one"));
    }
}

#[test]
fn what_cannot_be_put_into_a_base_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    let before = std::fs::read(&base).unwrap();
    let commit = |base: &Path| refused(Overlay::commit(&path, base, false, &|| false));
    let other = dir.path().join("other");
    std::fs::write(&other, &before[512..]).unwrap();
    assert!(commit(&other).contains("was made over a file of 32768 bytes"));
    assert!(commit(&dir.path().join("none")).contains("cannot open"));
    // An image has the size and time of the disk in it, and its bytes at other places.
    let keep = std::fs::metadata(&base).unwrap().modified().unwrap();
    for (magic, what) in
        [(&b"QFI\xfb"[..], "a qcow2 image"), (b"ublk-ts overlay\0", "the upper of another overlay")]
    {
        let mut image = before.clone();
        image[..magic.len()].copy_from_slice(magic);
        std::fs::write(&base, &image).unwrap();
        std::fs::File::options().write(true).open(&base).unwrap().set_modified(keep).unwrap();
        assert_eq!(commit(&base), format!("{} is {what}, not the bytes of a disk", base.display()));
        assert_eq!(std::fs::read(&base).unwrap(), image);
    }
    std::fs::write(&base, &before).unwrap();
    std::fs::File::options().write(true).open(&base).unwrap().set_modified(keep).unwrap();
    assert!(refused(Overlay::commit(&base, &other, false, &|| false)).contains("is no upper of an overlay"));
    assert_eq!(std::fs::read(&base).unwrap(), before);
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    assert_eq!(read(&mut benches[0], 0, 8), [1; 4096]);
    beside(&mut benches, || Backend::flatten(disk.clone(), None, &|| false)).unwrap();
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    assert!(commit(&base).ends_with("needs no base, so it cannot be put into one"));
}

#[test]
fn a_commit_goes_on_only_with_the_file_that_it_was_begun_with_and_removes_no_link() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path, link) = (base_file(&dir, 64), dir.path().join("upper"), dir.path().join("link"));
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(refused(Overlay::commit(&link, &base, false, &|| true)), "the commit was interrupted");
    let other = dir.path().join("other");
    std::fs::copy(&base, &other).unwrap();
    let before = std::fs::read(&other).unwrap();
    let message = refused(Overlay::commit(&path, &other, false, &|| false));
    assert!(message.contains("was begun into another file than"), "{message}");
    assert_eq!(std::fs::read(&other).unwrap(), before);
    // A sync that fails does not make it one that is served.
    let (name, _) = Upper::committed_at(&path, 0, "").unwrap().unwrap();
    let upper = Upper::open(&path, &shape_of(&name), false).unwrap();
    upper.poison();
    drop(upper);
    Overlay::commit(&link, &base, false, &|| false).unwrap();
    assert!(!path.exists(), "not the link");
    assert_eq!(std::fs::read(&base).unwrap()[..4096], [1; 4096]);
}

/// Of an upper that is being put into its base.
fn shape_of(name: &str) -> Shape<'_> {
    Shape { size: 64 * SECTOR, block_size: 512, base: name, committing: true, ..Shape::default() }
}
