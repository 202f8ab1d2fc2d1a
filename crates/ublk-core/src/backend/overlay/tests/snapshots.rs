//! Trees of snapshots and forks against arrays of bytes.

use super::*;
use crate::backend::overlay::upper::MOST_LAYERS;
use std::path::PathBuf;

/// Does something while the queues go on.
pub fn beside<T: Send>(queues: &mut [Bench], what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(what);
        while !thread.is_finished() {
            for queue in queues.iter_mut() {
                assert!(queue.turn().is_empty(), "no request is there");
            }
        }
        thread.join().unwrap()
    })
}

pub fn snapshot(overlay: &Arc<Overlay>, queues: &mut [Bench], name: &str) -> Result<()> {
    beside(queues, || Backend::snapshot(overlay.clone(), name, &|| {}))
}

pub fn queues(overlay: &Arc<Overlay>) -> [Bench; 2] {
    [0, 1].map(|_| Bench::new(overlay.clone(), 1, MAX_IO))
}

#[derive(Debug, Clone)]
enum Action {
    /// On which queue, what, and which part of the disk.
    Serve(usize, Op, prop::sample::Index, u64, u8),
    Snapshot,
    Reset,
    /// To a size in sectors.
    Resize(u64),
    /// A new disk over one of the snapshots.
    Fork(prop::sample::Index),
    /// Another server goes on, after the first one has closed the disk or was killed.
    Server {
        killed: bool,
    },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let op = prop_oneof![
        5 => Just(Op::Write),
        1 => Just(Op::WriteZeroes),
        1 => Just(Op::Discard),
        1 => Just(Op::Flush)
    ];
    let serve = (0_usize..2, op, any::<prop::sample::Index>(), 1_u64..60, any::<u8>())
        .prop_map(|(queue, op, at, length, fill)| Action::Serve(queue, op, at, length, fill));
    let action = prop_oneof![
        12 => serve,
        2 => Just(Action::Snapshot),
        1 => Just(Action::Reset),
        1 => (1_u64..300).prop_map(Action::Resize),
        1 => any::<prop::sample::Index>().prop_map(Action::Fork),
        2 => any::<bool>().prop_map(|killed| Action::Server { killed })
    ];
    prop::collection::vec(action, 1..50)
}

/// A snapshot: its file, what it holds, and how many layers it has.
struct Kept {
    path: PathBuf,
    model: Vec<u8>,
    layers: usize,
}

fn check(bench: &mut Bench, model: &[u8]) -> std::result::Result<(), TestCaseError> {
    for (number, part) in model.chunks(100).enumerate() {
        let (sector, length) = (number as u64 * 100, part.len() as u64);
        let data = read(bench, sector, length);
        for (at, (bytes, expected)) in data.chunks(SECTOR as usize).zip(part).enumerate() {
            let found = bytes[0];
            prop_assert!(
                bytes.iter().all(|byte| byte == expected),
                "sector {}: {}, not {}",
                sector + at as u64,
                found,
                expected
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 0 } else { 40 }, ..ProptestConfig::default() })]

    #[test]
    fn each_disk_of_a_tree_has_its_own_content_and_snapshots_keep_theirs(
        sectors in 1_u64..200,
        actions in actions(),
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let base = base_file(&dir, sectors);
        let mut upper = dir.path().join("disk0");
        let mut overlay = Arc::new(Overlay::in_file(open(&base), &upper, None, false).unwrap());
        let mut benches = queues(&overlay);
        let start: Vec<u8> = (0..sectors).map(pattern).collect();
        // What the disk has, what a reset leads back to, and the layers below its upper.
        let (mut model, mut below, mut layers) = (start.clone(), start, 0);
        let mut snapshots: Vec<Kept> = Vec::new();
        for (number, action) in actions.into_iter().enumerate() {
            match action {
                Action::Serve(queue, op, at, length, fill) => {
                    let sector = at.index(model.len()) as u64;
                    let length = length.min(model.len() as u64 - sector);
                    let range = sector as usize..(sector + length) as usize;
                    match op {
                        Op::Write => {
                            write(&mut benches[queue], sector, length, fill).unwrap();
                            model[range].fill(fill);
                        }
                        Op::Flush => {
                            // It may save two layers, of which the other one is about to be sealed.
                            prop_assert_eq!(serve(&mut benches[queue], Descriptor::new(op, 0, 0)), Ok(0));
                        }
                        _ => {
                            let what = Descriptor::new(op, sector * SECTOR, length * SECTOR);
                            prop_assert!(serve(&mut benches[queue], what).is_ok());
                            model[range].fill(0);
                        }
                    }
                }
                Action::Snapshot if layers + 1 == MOST_LAYERS => {
                    let message = snapshot(&overlay, &mut benches, "more").unwrap_err().message;
                    prop_assert!(message.ends_with("has 16 layers already, the most that are possible"));
                }
                Action::Snapshot => {
                    let name = format!("s{number}");
                    snapshot(&overlay, &mut benches, &name).unwrap();
                    layers += 1;
                    let path = PathBuf::from(format!("{}.{name}", upper.display()));
                    snapshots.push(Kept { path, model: model.clone(), layers });
                    below.clone_from(&model);
                }
                Action::Reset => {
                    beside(&mut benches, || overlay.reset()).unwrap();
                    let size = model.len();
                    // It keeps its size. What the layer below does not have comes from the base, or is zero.
                    if below.len() == size {
                        model.clone_from(&below);
                    } else {
                        for (sector, value) in (0..).zip(model.iter_mut()) {
                            *value = read(&mut benches[0], sector, 1)[0];
                        }
                        let common = size.min(below.len());
                        prop_assert_eq!(&model[..common], &below[..common]);
                    }
                }
                Action::Resize(to) => {
                    let from = model.len() as u64;
                    overlay.resize(from * SECTOR, to * SECTOR).unwrap();
                    model.resize(to as usize, 0);
                }
                Action::Fork(_) if snapshots.is_empty() => {}
                Action::Fork(at) => {
                    let kept = &snapshots[at.index(snapshots.len())];
                    beside(&mut benches, || overlay.close()).unwrap();
                    upper = dir.path().join(format!("disk{}", number + 1));
                    let made = Overlay::over_snapshot(open(&base), &kept.path, &upper, None, false);
                    overlay = Arc::new(made.unwrap());
                    benches = queues(&overlay);
                    (model, below, layers) = (kept.model.clone(), kept.model.clone(), kept.layers);
                }
                Action::Server { killed } => {
                    if !killed {
                        beside(&mut benches, || overlay.close()).unwrap();
                    }
                    drop(benches);
                    // The seal of the last snapshot may still run.
                    let mut last = Some(overlay);
                    while let Some(Err(left)) = last.take().map(Arc::try_unwrap) {
                        last = Some(left);
                        std::thread::yield_now();
                    }
                    overlay = Arc::new(Overlay::in_file(open(&base), &upper, None, false).unwrap());
                    benches = queues(&overlay);
                }
            }
        }
        check(&mut benches[1], &model)?;
        prop_assert_eq!(Backend::layers(&*overlay).len(), layers + 1);
        beside(&mut benches, || overlay.close()).unwrap();
        for Kept { path, model, layers } in snapshots {
            let disk = Arc::new(Overlay::in_file(open(&base), &path, None, true).unwrap());
            prop_assert_eq!(Backend::layers(&*disk).len(), layers);
            check(&mut Bench::new(disk, 1, MAX_IO), &model)?;
        }
    }
}

#[test]
fn what_cannot_be_a_snapshot_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let files = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    for name in ["", "a/b", "a b", "a\nb", "ä", "commit~1", "a/commit~1", "a-commit~1", "a.commit~1"] {
        let message = refused(snapshot(&disk, &mut benches, name));
        assert_eq!(message, format!("{name:?} is no name of a snapshot"));
    }
    snapshot(&disk, &mut benches, "one").unwrap();
    let before = files();
    assert_eq!(before.len(), 3);
    let message = refused(snapshot(&disk, &mut benches, "one"));
    assert_eq!(message, format!("{}.one exists already", path.display()));
    std::fs::write(dir.path().join("upper.two"), "mine").unwrap();
    assert!(refused(snapshot(&disk, &mut benches, "two")).ends_with("upper.two exists already"));
    std::fs::remove_file(dir.path().join("upper.two")).unwrap();
    assert_eq!(files(), before);
    let memory = Arc::new(Overlay::in_memory(open(&base), None).unwrap());
    let message = refused(Backend::snapshot(memory, "one", &|| {}));
    assert_eq!(message, "what is written to this disk is in memory: it has no snapshots");
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    let reader = Arc::new(Overlay::in_file(open(&base), &path, None, true).unwrap());
    assert!(refused(Backend::snapshot(reader.clone(), "two", &|| {})).contains("is not written"));
    assert!(refused(reader.reset()).contains("is not written"));
    let plain: Arc<dyn Backend> = Arc::new(Memory::new(512).unwrap());
    assert_eq!(refused(plain.clone().snapshot("one", &|| {})), "this disk has no snapshots");
    assert_eq!(refused(plain.reset()), "this disk cannot be reset");
    assert_eq!(files(), before);
}

#[test]
fn an_upper_is_over_the_snapshot_that_is_named_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    snapshot(&disk, &mut benches, "one").unwrap();
    let [one, fork] = ["upper.one", "fork"].map(|name| dir.path().join(name));
    // While the disk goes on.
    write(&mut benches[1], 0, 8, 2).unwrap();
    beside(&mut benches, || disk.finish_seal()).unwrap();
    let over = |snapshot: &Path, upper: &Path| {
        Overlay::over_snapshot(open(&base), snapshot, upper, None, false).map(Arc::new)
    };
    let forked = over(&one, &fork).unwrap();
    let mut other = queues(&forked);
    assert_eq!(read(&mut other[0], 0, 8), [1; 4096]);
    assert_eq!(read(&mut benches[0], 0, 8), [2; 4096]);
    // It is as well over it when it has a snapshot of its own.
    snapshot(&forked, &mut other, "own").unwrap();
    beside(&mut other, || forked.close()).unwrap();
    drop((other, forked));
    drop(over(&one, &fork).unwrap());
    let message = refused(over(&dir.path().join("fork.own"), &path));
    assert!(message.contains("is in use"), "{message}");
    beside(&mut benches, || disk.close()).unwrap();
    let message = refused(over(&dir.path().join("fork.own"), &path));
    let expected = format!(
        "the upper {} was not made over the snapshot {}/fork.own",
        path.display(),
        dir.path().display()
    );
    assert_eq!(message, expected);
}

#[test]
fn memory_is_reset_too() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Overlay::in_memory(open(&base_file(&dir, 64)), None).unwrap());
    let mut benches = queues(&disk);
    write(&mut benches[0], 8, 8, 0xab).unwrap();
    beside(&mut benches, || disk.reset()).unwrap();
    let expected: Vec<u8> = (8..16).flat_map(|sector| [pattern(sector); SECTOR as usize]).collect();
    assert_eq!(read(&mut benches[1], 8, 8), expected);
    write(&mut benches[1], 9, 1, 0xcd).unwrap();
    assert_eq!(read(&mut benches[0], 9, 1), [0xcd; 512]);
}

/// Requests that come while the disk is reset wait, and are answered by what it is then.
#[test]
fn a_request_waits_for_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    write(&mut benches[0], 0, 8, 1).unwrap();
    disk.queues.hold();
    let what = Descriptor::new(Op::Read, 0, 4096);
    assert_eq!(benches[0].start(0, what), None);
    assert!(benches[0].turn().is_empty() && benches[0].operations() == 0);
    disk.queues.go_on();
    let mut answers = Vec::new();
    while answers.is_empty() {
        answers = benches[0].turn();
    }
    assert_eq!(answers, [(0, Ok(4096))]);
    assert_eq!(benches[0].buffer(0)[..4096], [1; 4096]);
}

/// The snapshot of a disk whose writes take long is complete later. Until then a fork of it says so, and leaves nothing behind.
#[test]
fn a_fork_of_a_snapshot_that_is_not_sealed_yet_is_refused_and_possible_later() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let base = base_file(&dir, 64);
    let (disk, waiting) = waiting_overlay(&dir);
    let mut bench = Bench::new(disk.clone(), 1, MAX_IO);
    bench.buffer(0)[..4096].fill(1);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 4096)), None);
    let [one, fork] = ["upper.one", "fork"].map(|name| dir.path().join(name));
    std::thread::scope(|scope| {
        let making = scope.spawn(|| Backend::snapshot(disk.clone(), "one", &|| {}));
        while disk.layers.top() == 1 {
            assert!(bench.turn().is_empty());
        }
        let forking = scope.spawn(|| Overlay::over_snapshot(open(&base), &one, &fork, None, false).map(drop));
        while !forking.is_finished() {
            assert!(bench.turn().is_empty());
        }
        let error = forking.join().unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy);
        assert!(error.message.starts_with(&format!("{} is in use", one.display())), "{}", error.message);
        assert!(error.hint.is_some_and(|hint| hint.to_string().contains("make the new disk over it later")));
        assert!(!fork.exists());
        go_on(&waiting, 0);
        assert_eq!(outcome(&mut bench), Ok(4096));
        while !making.is_finished() {
            assert!(bench.turn().is_empty());
        }
        making.join().unwrap().unwrap();
        let forked = Arc::new(Overlay::over_snapshot(open(&base), &one, &fork, None, false).unwrap());
        assert_eq!(read(&mut Bench::new(forked, 1, MAX_IO), 0, 8), [1; 4096]);
    });
}
