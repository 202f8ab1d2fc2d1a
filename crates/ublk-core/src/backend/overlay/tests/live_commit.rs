//! Disks that are committed while they are in use, against arrays of bytes.

use super::flatten::content;
use super::snapshots::{beside, queues, snapshot};
use super::*;
use crate::backend::overlay::upper::MOST_LAYERS;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Weak;

const NOT_CLAIMED: Weak<Mutex<Claims>> = Weak::new();

pub fn commit(disk: &Arc<Overlay>, force: bool, given_up: &dyn Fn() -> bool) -> Result<()> {
    Backend::commit(disk.clone(), &Commit { rate: None, force, claims: &NOT_CLAIMED, given_up })
}

/// How often a commit looks whether to end before it changes the base: when it begins, before it adds a layer, and when that is
/// sealed.
const BEFORE: usize = 3;

/// Ends when it has looked whether to end that often.
fn ended_after(disk: &Arc<Overlay>, looks: usize) -> Result<()> {
    let left = Cell::new(looks);
    commit(disk, true, &|| left.replace(left.get().saturating_sub(1)) == 0)
}

/// Ends after that many parts.
pub fn interrupted(disk: &Arc<Overlay>, parts: usize) -> Result<()> {
    ended_after(disk, BEFORE + parts)
}

pub fn made(base: &Path, path: &Path) -> Arc<Overlay> {
    Arc::new(Overlay::in_file(open(base), path, None, false).unwrap())
}

/// The first byte of each sector of a file whose sectors are of one byte each.
pub fn of_file(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let same = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
    assert!(bytes.chunks(SECTOR as usize).all(same));
    bytes.iter().copied().step_by(SECTOR as usize).collect()
}

pub fn files(dir: &tempfile::TempDir) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(name).collect();
    names.sort();
    names
}

#[derive(Debug, Clone)]
enum Action {
    Serve(usize, Op, prop::sample::Index, u64, u8),
    Snapshot,
    Reset,
    /// Ended after so many looks, or not.
    Commit(Option<usize>),
    /// Another server goes on, after the first one has closed the disk, was killed, or lets go of it for a while.
    Server(u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let op = prop_oneof![
        6 => Just(Op::Write),
        1 => Just(Op::WriteZeroes),
        1 => Just(Op::Discard),
        1 => Just(Op::Flush)
    ];
    let serve = (0_usize..2, op, any::<prop::sample::Index>(), 1_u64..60, any::<u8>())
        .prop_map(|(queue, op, at, length, fill)| Action::Serve(queue, op, at, length, fill));
    let action = prop_oneof![
        12 => serve,
        1 => Just(Action::Snapshot),
        1 => Just(Action::Reset),
        2 => prop::option::of(0_usize..16).prop_map(Action::Commit),
        2 => (0_u8..3).prop_map(Action::Server)
    ];
    prop::collection::vec(action, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 0 } else { 60 }, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_that_is_committed_at_any_moment_has_its_content_and_its_base_that_of_then(
        sectors in 1_u64..300,
        actions in actions(),
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (base, path) = (base_file(&dir, sectors), dir.path().join("upper"));
        let mut disk = made(&base, &path);
        let mut benches = queues(&disk);
        // What the disk has, what a reset leads back to, and how many layers it has.
        let mut model: Vec<u8> = (0..sectors).map(pattern).collect();
        let (mut below, mut layers) = (model.clone(), 1);
        for (number, action) in actions.into_iter().enumerate() {
            match action {
                Action::Serve(queue, op, at, length, fill) => {
                    let sector = at.index(model.len()) as u64;
                    let length = length.min(sectors - sector);
                    let range = sector as usize..(sector + length) as usize;
                    match op {
                        Op::Write => {
                            prop_assert!(write(&mut benches[queue], sector, length, fill).is_ok());
                            model[range].fill(fill);
                        }
                        Op::Flush => prop_assert_eq!(serve(&mut benches[queue], Descriptor::new(op, 0, 0)), Ok(0)),
                        _ => {
                            let what = Descriptor::new(op, sector * SECTOR, length * SECTOR);
                            prop_assert!(serve(&mut benches[queue], what).is_ok());
                            model[range].fill(0);
                        }
                    }
                }
                Action::Snapshot if layers == MOST_LAYERS => {}
                Action::Snapshot => {
                    snapshot(&disk, &mut benches, &format!("s{number}")).unwrap();
                    below.clone_from(&model);
                    layers += 1;
                }
                Action::Reset => {
                    beside(&mut benches, || disk.reset()).unwrap();
                    model.clone_from(&below);
                }
                Action::Commit(looks) => {
                    let done = beside(&mut benches, || match looks {
                        Some(looks) => ended_after(&disk, looks),
                        None => commit(&disk, true, &|| false),
                    });
                    let before = std::mem::replace(&mut layers, Backend::layers(&*disk).len());
                    // It has made a snapshot, for which there may have been no room before it had put the layers into the base.
                    if done.is_ok() || layers == before % MOST_LAYERS + 1 + usize::from(before == MOST_LAYERS) {
                        below.clone_from(&model);
                    }
                    match done {
                        Ok(()) => {
                            prop_assert_eq!(&of_file(&base), &model);
                            prop_assert_eq!(Backend::layers(&*disk).len(), 1);
                            prop_assert_eq!(files(&dir), ["base", "upper"]);
                        }
                        Err(error) => {
                            prop_assert!(looks.is_some());
                            prop_assert_eq!(error.message, "the commit was cancelled");
                        }
                    }
                }
                Action::Server(2) => {
                    beside(&mut benches, || disk.let_go());
                    prop_assert!(disk.take_back(sectors * SECTOR).is_ok());
                    benches = queues(&disk);
                }
                Action::Server(kill) => {
                    if kill == 0 {
                        beside(&mut benches, || disk.close()).unwrap();
                    }
                    drop(benches);
                    drop(disk);
                    disk = made(&base, &path);
                    benches = queues(&disk);
                    layers = Backend::layers(&*disk).len();
                }
            }
            prop_assert_eq!(&content(&mut benches[number % 2], sectors), &model);
        }
        // Without its server it is committed as well.
        beside(&mut benches, || disk.close()).unwrap();
        drop((benches, disk));
        Overlay::commit(&path, &base, true, &|| false).unwrap();
        prop_assert_eq!(of_file(&base), model);
    }
}

/// Two queues write at random while another thread commits.
#[test]
fn what_is_written_while_a_disk_is_committed_stays() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let sectors = 16 << 10; // 8 MiB
    let (base, path) = (base_file(&dir, sectors), dir.path().join("upper"));
    let mut model: Vec<u8> = (0..sectors).map(pattern).collect();
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut change = |benches: &mut [Bench; 2], model: &mut Vec<u8>| {
        let (sector, length, fill) = (next(sectors - 16), 1 + next(16), next(256) as u8);
        let op = [Op::Write, Op::Write, Op::Write, Op::Discard, Op::WriteZeroes][next(5) as usize];
        let bench = next(2) as usize;
        benches[bench].buffer(0)[..(length * SECTOR) as usize].fill(fill);
        let mut outcome = benches[bench].start(0, Descriptor::new(op, sector * SECTOR, length * SECTOR));
        while outcome.is_none() {
            assert!(benches[1 - bench].turn().is_empty());
            outcome = benches[bench].turn().pop().map(|(_, outcome)| outcome);
        }
        assert!(outcome.unwrap().is_ok());
        let range = sector as usize..(sector + length) as usize;
        model[range].fill(if op == Op::Write { fill } else { 0 });
    };
    let mut writes = 0;
    for round in 0..4 {
        for _ in 0..400 {
            change(&mut benches, &mut model);
        }
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| commit(&disk, false, &|| false));
            while !committing.is_finished() {
                change(&mut benches, &mut model);
                writes += 1;
            }
            committing.join().unwrap().unwrap();
        });
        assert_eq!(content(&mut benches[0], sectors), model, "round {round}");
        assert_eq!(files(&dir), ["base", "upper"]);
    }
    assert!(writes > 40, "{writes} writes");
    // Another server reads the same.
    drop((benches, disk));
    assert_eq!(content(&mut queues(&made(&base, &path))[0], sectors), model);
}

fn refusals(disk: &Arc<Overlay>, benches: &mut [Bench; 2]) -> String {
    refused(beside(benches, || commit(disk, false, &|| false)))
}

#[test]
fn what_cannot_be_committed_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let before = (std::fs::read(&base).unwrap(), std::fs::metadata(&base).unwrap().modified().unwrap());
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    // Others use the base.
    let base_disk = open(&base);
    let claim = Claims::take(&base_disk.places(), Duration::ZERO).unwrap();
    let others = format!("{} is in use by others than this disk", base.display());
    assert_eq!(refusals(&disk, &mut benches), others);
    drop(claim);
    // It does not fit.
    disk.resize(64 * SECTOR, 72 * SECTOR).unwrap();
    assert_eq!(refusals(&disk, &mut benches), "the disk has 36864 bytes, and its base only 32768");
    disk.resize(72 * SECTOR, 64 * SECTOR).unwrap();
    assert_eq!(Backend::layers(&*disk).len(), 1, "nothing has changed");
    snapshot(&disk, &mut benches, "one").unwrap();
    assert_eq!(refusals(&disk, &mut benches), format!("the upper {} is over 1 snapshots", path.display()));
    {
        let _diff = disk.keep_below().unwrap();
        let message = refused(beside(&mut benches, || commit(&disk, true, &|| false)));
        assert_eq!(message, "a diff of the disk reads its snapshots");
    }
    assert_eq!(Backend::layers(&*disk).len(), 2);
    assert_eq!(
        before,
        (std::fs::read(&base).unwrap(), std::fs::metadata(&base).unwrap().modified().unwrap())
    );
    // The base is not a disk's bytes.
    let whole = 64 * SECTOR;
    let slice = Arc::new(Slice::new(open(&base), 0, Some(whole)).unwrap());
    let memory: Arc<dyn Backend> = Arc::new(Memory::new(whole).unwrap());
    for (number, below) in [slice as Arc<dyn Backend>, memory].into_iter().enumerate() {
        let other = dir.path().join(format!("other{number}"));
        let disk = Arc::new(Overlay::in_file(below, &other, None, false).unwrap());
        let message = refusals(&disk, &mut queues(&disk));
        assert_eq!(message, "the base is no file with the disk's bytes at their own offsets");
    }
    let image = dir.path().join("image");
    std::fs::write(&image, [&b"QFI\xfb"[..], &[0; 4092]].concat()).unwrap();
    let disk = made(&image, &dir.path().join("other3"));
    let message = refusals(&disk, &mut queues(&disk));
    assert_eq!(message, format!("{} is a qcow2 image, not the bytes of a disk", image.display()));
    let in_memory = Arc::new(Overlay::in_memory(open(&base), None).unwrap());
    let message = refusals(&in_memory, &mut queues(&in_memory));
    assert_eq!(message, "what is written to this disk is in memory: it cannot be committed");
    let flat = made(&base, &dir.path().join("flat"));
    let mut benches = queues(&flat);
    beside(&mut benches, || Backend::flatten(flat.clone(), None, &|| false)).unwrap();
    assert!(refusals(&flat, &mut benches).ends_with("needs no base, so it cannot be put into one"));
    beside(&mut benches, || flat.close()).unwrap();
    drop((benches, flat));
    let plain: Arc<dyn Backend> = Arc::new(Memory::new(512).unwrap());
    let how = Commit { rate: None, force: false, claims: &NOT_CLAIMED, given_up: &|| false };
    assert_eq!(refused(plain.commit(&how)), "this disk cannot be committed");
}

/// It is cancelled, or the disk is stopped, before the base changes.
#[test]
fn a_commit_that_is_to_end_before_it_changes_the_base_changes_nothing() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let before = (std::fs::read(&base).unwrap(), std::fs::metadata(&base).unwrap().modified().unwrap());
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    for looks in 0..BEFORE {
        let error = beside(&mut benches, || ended_after(&disk, looks)).unwrap_err();
        assert_eq!(error.message, "the commit was cancelled");
        assert!(error.hint.is_some_and(|hint| hint.to_string().starts_with("nothing is lost")), "{looks}");
        assert!(!disk.layers.written().kept.as_ref().unwrap().upper.is_putting(), "{looks}");
        let layers = usize::from(looks + 1 == BEFORE) + 1;
        assert_eq!(Backend::layers(&*disk).len(), layers, "{looks}");
    }
    // Its server has left it: the next one may have it already.
    beside(&mut benches, || disk.let_go());
    for force in [false, true] {
        let error = commit(&disk, force, &|| false).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Closed);
        assert_eq!(error.message, "the disk is not served, so it is not committed");
    }
    let named = Backend::snapshot(disk.clone(), "one", &|| {}).unwrap_err();
    assert_eq!(named.message, "the disk is not served, so it is not given a snapshot");
    assert_eq!(files(&dir), ["base", "upper", "upper.commit~1"]);
    assert_eq!(
        before,
        (std::fs::read(&base).unwrap(), std::fs::metadata(&base).unwrap().modified().unwrap())
    );
}

/// A snapshot is there before the writes from before it have ended, and the disk has no room for another one.
#[test]
fn a_commit_of_a_disk_with_the_most_layers_waits_for_the_writes_to_the_last_one_below() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    for number in 2..MOST_LAYERS {
        snapshot(&disk, &mut benches, &format!("s{number}")).unwrap();
    }
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    let before = std::fs::read(&base).unwrap();
    let (disk, waiting) = waiting_overlay(&dir);
    let mut bench = Bench::new(disk.clone(), 1, MAX_IO);
    bench.buffer(0)[..4096].fill(9);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 4096)), None);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| Backend::snapshot(disk.clone(), "last", &|| {}));
        while !making.is_finished() {
            assert!(bench.turn().is_empty());
        }
        making.join().unwrap().unwrap();
        assert_eq!(Backend::layers(&*disk).len(), MOST_LAYERS);
        let committing = scope.spawn(|| commit(&disk, true, &|| false));
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            assert!(bench.turn().is_empty());
        }
        assert!(!committing.is_finished());
        assert_eq!(std::fs::read(&base).unwrap(), before);
        go_on(&waiting, 0);
        assert_eq!(outcome(&mut bench), Ok(4096));
        while !committing.is_finished() {
            assert!(bench.turn().is_empty());
        }
        committing.join().unwrap().unwrap();
    });
    let expected: Vec<u8> = (0..64).map(|at| if at < 8 { 9 } else { pattern(at) }).collect();
    assert_eq!(content(&mut bench, 64), expected);
    assert_eq!(of_file(&base), expected);
}

#[test]
fn a_layer_that_may_still_be_written_is_not_put_into_the_base() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let before = std::fs::read(&base).unwrap();
    let name = identity_of(&*open(&base)).unwrap();
    let shape = Shape { size: 64 * SECTOR, block_size: 512, base: &name, ..Shape::default() };
    let below = Upper::create(&path, &shape).unwrap();
    below.write(0, &[1; 4096]).unwrap();
    below.note(0..4096).unwrap();
    let top = below.snapshot("one").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&base).unwrap();
    let put = || {
        let copying = upper::Copying {
            base: &file,
            size: 64 * SECTOR,
            most: 4096,
            pace: &mut |_, _| Ok(()),
            room: &|_| Ok(()),
        };
        top.put_below(&[&below], upper::Put { copying, into: 1, stamp: &|| Ok(()) }, &|| Ok("new".into()))
    };
    assert_eq!(put().unwrap_err().to_string(), format!("{} may still be written", below.path().display()));
    assert!(!top.is_putting());
    assert_eq!(std::fs::read(&base).unwrap(), before);
    // Its data may be lost.
    below.poison();
    assert!(below.seal().is_err() && put().is_err());
    assert_eq!(std::fs::read(&base).unwrap(), before);
}

/// The snapshots and forks of a disk whose base is changed.
#[test]
fn a_commit_takes_the_snapshots_and_other_uppers_are_refused() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    drop(queues(&made(&base, &at("other"))));
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    snapshot(&disk, &mut benches, "one").unwrap();
    let fork = Overlay::over_snapshot(open(&base), &at("upper.one"), &at("fork"), None, false);
    drop(queues(&Arc::new(fork.unwrap())));
    write(&mut benches[0], 8, 8, 2).unwrap();
    assert_eq!(refused(beside(&mut benches, || interrupted(&disk, 1))), "the commit was cancelled");
    assert_eq!(files(&dir), ["base", "fork", "other", "upper", "upper.commit~1", "upper.one"]);
    let changed = "and the base is a file of 32768 bytes";
    for (name, over) in [("other", None), ("fork", Some("upper.one")), ("new", Some("upper.one"))] {
        let found = match over {
            None => Overlay::in_file(open(&base), &at(name), None, false),
            Some(over) => Overlay::over_snapshot(open(&base), &at(over), &at(name), None, false),
        };
        let message = refused(found);
        assert!(message.contains(changed), "{name}: {message}");
    }
    // The commit's own has all that the disk has, and is not to stay.
    let message =
        refused(Overlay::over_snapshot(open(&base), &at("upper.commit~1"), &at("new"), None, false));
    assert!(!at("new").exists(), "{message}");
    // A snapshot is possible, and nobody has allowed a commit to take it.
    snapshot(&disk, &mut benches, "two").unwrap();
    let over = format!("the upper {} is over 1 snapshots", path.display());
    assert_eq!(refusals(&disk, &mut benches), over);
    write(&mut benches[0], 16, 8, 3).unwrap();
    // The base is another file: it is not taken for the one that was begun with.
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    let copy = at("copy");
    std::fs::copy(&base, &copy).unwrap();
    let message = refused(Overlay::in_file(open(&copy), &path, None, false));
    let another = "is over layers that were being put into another file than this base";
    assert!(message.ends_with(another), "{message}");
    // A copy with its time, such as a restored one, has the same content. Both are known since the commit was ended.
    let time = std::fs::metadata(&base).unwrap().modified().unwrap();
    let set_time = |path: &Path, time| {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    set_time(&copy, time);
    drop(made(&copy, &path));
    // Another content in the same file is not the base.
    set_time(&base, time + Duration::from_secs(1));
    let message = refused(Overlay::in_file(open(&base), &path, None, false));
    assert!(message.ends_with(another), "{message}");
    assert!(
        refused(Overlay::commit(&path, &base, true, &|| false)).contains("was begun into another file than")
    );
    set_time(&base, time);
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    assert_eq!(refusals(&disk, &mut benches), over);
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    assert_eq!(refused(Overlay::commit(&path, &base, false, &|| false)), over);
    let disk = made(&base, &path);
    let mut benches = queues(&disk);
    beside(&mut benches, || commit(&disk, true, &|| false)).unwrap();
    assert_eq!(files(&dir), ["base", "copy", "fork", "other", "upper"]);
    let expected: Vec<u8> = (0..64).map(|at| if at < 24 { at as u8 / 8 + 1 } else { pattern(at) }).collect();
    assert_eq!(of_file(&base), expected);
    write(&mut benches[1], 0, 64, 9).unwrap();
    beside(&mut benches, || disk.reset()).unwrap();
    assert_eq!(content(&mut benches[0], 64), expected);
}
