//! Overlays against an array of bytes: several queues, new sizes, and other servers that go on with the same upper.

mod changes;
mod commit;
mod durable;
mod flatten;
mod left_behind;
mod live_commit;
mod numbers;
mod snapshots;

use super::nothing::Nothing;
use super::*;
use crate::backend::later::{Later, Waiting};
use crate::backend::testing::Bench;
use crate::backend::{File, Slice, Storage};
use crate::claim::Claims;
use crate::queue::{Descriptor, Flags, Op, Outcome};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

const SECTOR: u64 = 512;
const MAX_IO: u32 = 64 << 10;

/// The bytes of a base at first.
fn pattern(sector: u64) -> u8 {
    (sector * 7 % 250 + 1) as u8
}

fn base_file(dir: &tempfile::TempDir, sectors: u64) -> std::path::PathBuf {
    let path = dir.path().join("base");
    let bytes = |sector| std::iter::repeat_n(pattern(sector), SECTOR as usize);
    std::fs::write(&path, (0..sectors).flat_map(bytes).collect::<Vec<_>>()).unwrap();
    path
}

fn open(path: &Path) -> Arc<dyn Backend> {
    Arc::new(File::open(path, true, false).unwrap())
}

/// Serves a request to its end.
fn serve(bench: &mut Bench, what: Descriptor) -> Outcome {
    let mut outcome = bench.start(0, what);
    let began = std::time::Instant::now();
    while outcome.is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what:?} is not answered");
        outcome = bench.turn().pop().map(|(_, outcome)| outcome);
    }
    outcome.unwrap()
}

fn read(bench: &mut Bench, sector: u64, sectors: u64) -> Vec<u8> {
    let length = sectors * SECTOR;
    bench.buffer(0)[..length as usize].fill(0xee);
    let read = Descriptor::new(Op::Read, sector * SECTOR, length);
    assert_eq!(serve(bench, read), Ok(length as u32));
    bench.buffer(0)[..length as usize].to_vec()
}

fn write(bench: &mut Bench, sector: u64, sectors: u64, fill: u8) -> Outcome {
    let length = sectors * SECTOR;
    bench.buffer(0)[..length as usize].fill(fill);
    serve(bench, Descriptor::new(Op::Write, sector * SECTOR, length))
}

#[derive(Debug, Clone)]
enum Action {
    /// On which queue, what, and which part of the disk.
    Serve(usize, Op, prop::sample::Index, u64, u8),
    /// To a size in sectors.
    Resize(u64),
    /// Another server goes on, after the first one has closed the disk or was killed.
    Server { killed: bool },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let op = prop_oneof![
        5 => Just(Op::Write),
        5 => Just(Op::Read),
        1 => Just(Op::WriteZeroes),
        1 => Just(Op::Discard),
        1 => Just(Op::Flush)
    ];
    let serve = (0_usize..2, op, any::<prop::sample::Index>(), 1_u64..100, any::<u8>())
        .prop_map(|(queue, op, at, length, fill)| Action::Serve(queue, op, at, length, fill));
    let action = prop_oneof![
        20 => serve,
        1 => (1_u64..400).prop_map(Action::Resize),
        1 => any::<bool>().prop_map(|killed| Action::Server { killed })
    ];
    prop::collection::vec(action, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 0 } else { 150 }, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_is_the_disk_that_it_says_whoever_serves_it_and_at_any_size(
        sectors in 1_u64..200,
        in_memory: bool,
        actions in actions(),
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap(); // where a sync takes no time
        let (path, upper) = (base_file(&dir, sectors), dir.path().join("upper"));
        let before = std::fs::read(&path).unwrap();
        let disk = || -> Arc<Overlay> {
            Arc::new(if in_memory {
                Overlay::in_memory(open(&path), None).unwrap()
            } else {
                Overlay::in_file(open(&path), &upper, None, false).unwrap()
            })
        };
        let benches = |disk: &Arc<Overlay>| [0, 1].map(|_| Bench::new(disk.clone(), 1, MAX_IO));
        let mut overlay = disk();
        let mut queues = benches(&overlay);
        let mut model: Vec<u8> = (0..sectors).map(pattern).collect();
        for action in actions {
            let size = model.len() as u64;
            match action {
                Action::Resize(to) => {
                    overlay.resize(size * SECTOR, to * SECTOR).unwrap();
                    model.resize(to as usize, 0);
                }
                Action::Server { .. } if in_memory => {}
                Action::Server { killed } => {
                    if !killed {
                        overlay.close().unwrap();
                    }
                    drop((queues, overlay));
                    overlay = disk();
                    prop_assert_eq!(overlay.properties().size, size * SECTOR);
                    queues = benches(&overlay);
                }
                Action::Serve(queue, op, at, length, fill) => {
                    let sector = at.index(model.len()) as u64;
                    let length = length.min(size - sector);
                    let (bench, range) = (&mut queues[queue], sector as usize..(sector + length) as usize);
                    let what = Descriptor::new(op, sector * SECTOR, length * SECTOR);
                    match op {
                        Op::Write => {
                            prop_assert_eq!(write(bench, sector, length, fill), Ok((length * SECTOR) as u32));
                            model[range].fill(fill);
                        }
                        Op::Read => {
                            let data = read(bench, sector, length);
                            for (sector, bytes) in range.zip(data.chunks(SECTOR as usize)) {
                                prop_assert!(bytes.iter().all(|byte| *byte == model[sector]), "sector {}", sector);
                            }
                        }
                        Op::Flush => prop_assert_eq!(serve(bench, Descriptor::new(op, 0, 0)), Ok(0)),
                        _ => {
                            prop_assert!(serve(bench, what).is_ok());
                            model[range].fill(0);
                        }
                    }
                }
            }
        }
        for (sector, expected) in model.iter().enumerate() {
            let data = read(&mut queues[0], sector as u64, 1);
            prop_assert!(data.iter().all(|byte| byte == expected), "sector {}: {}, not {}", sector, data[0], expected);
        }
        prop_assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn a_request_in_one_layer_is_one_operation_and_one_across_layers_one_for_each_run() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let overlay = Overlay::in_file(open(&base), &dir.path().join("upper"), Some(96 * SECTOR), false).unwrap();
    let mut bench = Bench::new(Arc::new(overlay), 2, MAX_IO);
    let mut operations = |what: Descriptor| {
        assert_eq!(bench.start(1, what), None);
        let operations = bench.operations();
        while bench.turn().is_empty() {}
        operations
    };
    let at = |op, sector: u64, sectors: u64| Descriptor::new(op, sector * SECTOR, sectors * SECTOR);
    assert_eq!(operations(at(Op::Read, 0, 64)), 1);
    assert_eq!(operations(at(Op::Write, 8, 8)), 1);
    assert_eq!(operations(at(Op::Write, 8, 8)), 1);
    assert_eq!(operations(at(Op::Read, 8, 8)), 1);
    assert_eq!(operations(at(Op::Read, 0, 24)), 3);
    // Beyond the base, written or not, all is in the upper.
    assert_eq!(operations(at(Op::Write, 80, 3)), 1);
    assert_eq!(operations(at(Op::Read, 64, 32)), 1);
    assert_eq!(operations(at(Op::Read, 63, 32)), 2);
}

#[test]
fn the_cells_that_were_written_over_the_base_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let overlay = Arc::new(Overlay::in_memory(open(&base), Some(83 * SECTOR)).unwrap());
    let mut bench = Bench::new(overlay.clone(), 1, MAX_IO);
    assert_eq!(overlay.written_shares(8192), Some(vec![0; 6]));
    write(&mut bench, 0, 16, 1).unwrap();
    write(&mut bench, 27, 1, 1).unwrap(); // the second block of its cell, and not its beginning
    write(&mut bench, 82, 1, 1).unwrap(); // the last cell has less than two blocks
    assert_eq!(overlay.written_shares(8192), Some(vec![255, 127, 0, 0, 0, 255]));
    assert_eq!(overlay.written_shares(1 << 30), Some(vec![92])); // four of eleven blocks
    assert_eq!(open(&base).written_shares(8192), None);
}

#[test]
fn a_write_moves_its_own_data_only_and_a_discard_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 4096), dir.path().join("upper"));
    let overlay = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
    let before = blocks();
    let mut bench = Bench::new(overlay, 1, MAX_IO);
    for at in 0..8 {
        write(&mut bench, at * 512, 8, 0xab).unwrap();
    }
    // The notes take a page.
    assert!(blocks() - before <= 8 * 8 + 8, "{} sectors for 64", blocks() - before);
    for at in 0..8 {
        let discard = Descriptor::new(Op::Discard, at * 512 * SECTOR, 8 * SECTOR);
        serve(&mut bench, discard).unwrap();
        assert_eq!(read(&mut bench, at * 512, 8), [0; 4096]);
    }
    assert!(blocks() - before <= 8, "{} sectors for nothing", blocks() - before);
}

/// An overlay in a file whose upper lets each request wait for [`go_on`].
fn waiting_overlay(dir: &tempfile::TempDir) -> (Arc<Overlay>, Waiting) {
    let (path, waiting) = (dir.path().join("upper"), Waiting::default());
    let mut overlay = Overlay::in_file(open(&dir.path().join("base")), &path, None, false).unwrap();
    let upper = overlay.layers.written_mut();
    upper.disk = Arc::new(Later { disk: upper.disk.clone(), waiting: waiting.clone() });
    (Arc::new(overlay), waiting)
}

/// The oldest request that waits goes on, or fails.
fn go_on(waiting: &Waiting, result: i32) {
    let (completer, token, _) = waiting.lock().unwrap().remove(0);
    completer.complete(token, result);
}

fn outcome(bench: &mut Bench) -> Outcome {
    loop {
        if let Some((_, outcome)) = bench.turn().pop() {
            return outcome;
        }
    }
}

/// The message of a refusal.
fn refused<T>(made: Result<T>) -> String {
    made.map(drop).unwrap_err().message
}

#[test]
fn an_upper_fits_the_base_that_it_was_made_over_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let shown = path.display();
    let made = |base: Arc<dyn Backend>, size, read_only| Overlay::in_file(base, &path, size, read_only);
    assert_eq!(refused(made(open(&base), None, true)), format!("the upper {shown} does not exist"));
    assert!(!path.exists());
    drop(made(open(&base), None, false).unwrap());
    assert!(!path.exists(), "no disk was served from it");
    drop(Bench::new(Arc::new(made(open(&base), None, false).unwrap()), 1, MAX_IO));
    drop(made(open(&base), None, false).unwrap());
    let other = refused(made(open(&base), Some(128 * SECTOR), false));
    assert_eq!(other, format!("the upper {shown} is of a disk of 32768 bytes, not 65536"));
    // A part of the base, a copy that was made with its time, and one that was changed since.
    let part = Arc::new(Slice::new(open(&base), 0, Some(64 * SECTOR)).unwrap());
    assert!(refused(made(part, None, false)).starts_with(&format!("the upper {shown} was made over ")));
    let copy = dir.path().join("copy");
    std::fs::copy(&base, &copy).unwrap();
    let time = std::fs::metadata(&base).unwrap().modified().unwrap();
    let set = |time| std::fs::File::options().write(true).open(&copy).unwrap().set_modified(time).unwrap();
    set(time);
    drop(made(open(&copy), None, false).unwrap());
    set(time + Duration::from_nanos(1000));
    assert!(
        refused(made(open(&copy), None, false)).starts_with(&format!("the upper {shown} was made over "))
    );
    // It serves one disk at a time, or several that only read.
    let first = made(open(&base), None, false).unwrap();
    assert!(refused(made(open(&base), None, false)).contains("is in use"));
    drop(first);
    let readers = [made(open(&base), None, true).unwrap(), made(open(&base), None, true).unwrap()];
    assert!(readers.iter().all(|disk| disk.properties().discard.is_none()));
}

#[test]
fn a_disk_that_was_handed_over_is_taken_back_with_what_the_other_server_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let open = || Overlay::in_file(open(&base), &path, None, false).map(Arc::new);
    let first = open().unwrap();
    write(&mut Bench::new(first.clone(), 1, MAX_IO), 0, 8, 1).unwrap();
    assert!(refused(open()).contains("is in use"));
    first.let_go();
    let second = open().unwrap();
    assert!(refused(first.take_back(first.properties().size)).contains("is in use"));
    let mut bench = Bench::new(second.clone(), 1, MAX_IO);
    assert_eq!(read(&mut bench, 0, 8), [1; 4096]);
    write(&mut bench, 8, 8, 2).unwrap();
    second.resize(64 * SECTOR, 80 * SECTOR).unwrap();
    // It was killed, or has let go as well.
    drop((bench, second));
    first.take_back(80 * SECTOR).unwrap();
    assert_eq!(first.properties().size, 80 * SECTOR);
    let mut bench = Bench::new(first.clone(), 1, MAX_IO);
    assert_eq!(read(&mut bench, 0, 16), [[1; 4096], [2; 4096]].concat());
    write(&mut bench, 16, 8, 3).unwrap();
    first.close().unwrap();
    drop((bench, first));
    let third = open().unwrap();
    assert_eq!(read(&mut Bench::new(third, 1, MAX_IO), 8, 16), [[2; 4096], [3; 4096]].concat());
}

/// The upper grows before the disk, and shrinks after it.
#[test]
fn a_resize_that_a_kill_interrupted_is_ended_by_the_next_server() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    {
        let first = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
        let mut bench = Bench::new(first.clone(), 1, MAX_IO);
        write(&mut bench, 0, 8, 1).unwrap();
        first.resize(64 * SECTOR, 80 * SECTOR).unwrap();
    }
    let again = || Overlay::in_file(open(&base), &path, Some(64 * SECTOR), false).map(Arc::new);
    assert!(refused(again()).contains("is of a disk of 40960 bytes, not 32768"));
    Overlay::end_resize(&*open(&base), &path, 64 * SECTOR).unwrap();
    Overlay::end_resize(&*open(&base), &path, 64 * SECTOR).unwrap();
    let second = again().unwrap();
    assert_eq!(read(&mut Bench::new(second, 1, MAX_IO), 0, 8), [1; 4096]);
}

#[test]
fn a_base_that_was_changed_while_it_was_not_served_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let disks = [
        Overlay::in_file(open(&base), &dir.path().join("upper"), None, false).unwrap(),
        Overlay::in_memory(open(&base), None).unwrap(),
    ];
    for disk in &disks {
        disk.take_back(disk.properties().size).unwrap(); // as before each start
    }
    let file = std::fs::File::options().write(true).open(&base).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    for disk in &disks {
        assert!(
            refused(disk.take_back(disk.properties().size))
                .starts_with("the base was changed: it was a file of 32768 bytes")
        );
    }
}

#[test]
fn a_base_has_whole_blocks_and_an_overlay_too() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("odd");
    std::fs::write(&odd, [1; 1000]).unwrap();
    let message = "the overlay's base has 1000 bytes, which are no whole blocks of 512";
    assert_eq!(refused(Overlay::in_memory(open(&odd), None)), message);
    let size = Overlay::in_file(open(&base_file(&dir, 8)), &dir.path().join("upper"), Some(1000), false);
    assert_eq!(refused(size), "the overlay's size 1000 is not a multiple of the block size 512");
}

#[test]
fn disks_share_a_base_while_nobody_writes_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let overlay = || Overlay::in_memory(open(&base), None).unwrap();
    let (one, other) = (overlay(), overlay());
    let claimed = |disk: &dyn Backend| Claims::take(&disk.places(), Duration::ZERO);
    let _claims = [claimed(&one).unwrap(), claimed(&other).unwrap()];
    let writer = File::open(&base, false, false).unwrap();
    assert!(refused(claimed(&writer)).contains("is in use"));
}

#[test]
fn properties_are_those_of_base_and_upper() {
    let dir = tempfile::tempdir().unwrap();
    let (base, upper) = (base_file(&dir, 64), dir.path().join("upper"));
    let kept = Overlay::in_file(open(&base), &upper, None, false).unwrap();
    let properties = kept.properties();
    assert!(properties.write_cache && properties.discard.is_some());
    assert_eq!(kept.copy_modes(), [CopyMode::Zero, CopyMode::Copy]);
    let memory = Overlay::in_memory(open(&base), Some(1 << 20)).unwrap();
    let properties = memory.properties();
    assert_eq!((properties.size, properties.write_cache), (1 << 20, false));
    assert_eq!(memory.copy_modes(), [CopyMode::Copy]);
    let base = Memory::new(4096).unwrap();
    base.store(0, &[1; 512]).unwrap();
    let both = Overlay::in_memory(Arc::new(base), None).unwrap();
    assert_eq!(both.copy_modes(), [CopyMode::Copy, CopyMode::User]);
}
