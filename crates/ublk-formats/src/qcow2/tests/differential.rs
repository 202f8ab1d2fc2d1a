//! The same operations by QEMU and here: what the images hold afterwards is the same.

use super::{Random, create, qemu_ok, setting, text};
use crate::{Options, Qcow2};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ublk_core::backend::{Flags, Op, Outcome};
use ublk_core::queue::Descriptor;
use ublk_core::testing::Bench;

const SIZE: u64 = 6 << 20;
const LONGEST: u64 = 256 << 10;
const DEPTH: u16 = 8;

/// Answers of requests in flight.
fn turn(bench: &mut Bench) -> Vec<(u16, Outcome)> {
    let answers = bench.turn();
    if answers.is_empty() {
        std::thread::yield_now();
    }
    answers
}

fn finish(bench: &mut Bench, tag: u16, what: Descriptor) -> Outcome {
    let mut answer = bench.start(tag, what);
    while answer.is_none() {
        answer = turn(bench).into_iter().find(|(other, _)| *other == tag).map(|(_, outcome)| outcome);
    }
    answer.unwrap()
}

fn open(path: &Path, backing: &[PathBuf], through: bool) -> Arc<Qcow2> {
    let options = Options { backing: backing.to_vec(), through, ..Options::default() };
    Arc::new(Qcow2::open(path, &options).unwrap())
}

/// Random operations: on the disk here, in memory, and as commands of qemu-io.
fn compare(options: &str, backing: Option<&str>, through: bool, seed: u64, count: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let mut model = vec![0_u8; SIZE as usize];
    let mut options = options.to_owned();
    let base = dir.path().join("base");
    let mut allowed = Vec::new();
    if let Some(format) = backing {
        let raw = dir.path().join("raw");
        let mut random = Random(seed + 1);
        // Shorter than the disk, not even a whole cluster.
        let short = (SIZE / 2 + 512) as usize;
        for block in model[..short].chunks_mut(4096) {
            if random.below(3) > 0 {
                block.fill(random.next() as u8);
            }
        }
        std::fs::write(&raw, &model[..short]).unwrap();
        match format {
            "raw" => std::fs::rename(&raw, &base).unwrap(),
            how => drop(qemu_ok(
                "qemu-img",
                &[
                    "convert",
                    "-O",
                    "qcow2",
                    if how == "compressed" { "-c" } else { "-q" },
                    "-o",
                    "cluster_size=4k",
                    text(&raw),
                    text(&base),
                ],
            )),
        }
        let format = if format == "raw" { "raw" } else { "qcow2" };
        write!(options, ",backing_file={},backing_fmt={format}", text(&base)).unwrap();
        allowed.push(base.clone());
    }
    for path in [&ours, &theirs] {
        create(path, &options, &SIZE.to_string());
    }
    let mut random = Random(seed);
    let mut commands = String::new();
    let disk = open(&ours, &allowed, through);
    let mut bench = Bench::new(disk.clone(), DEPTH, LONGEST as u32);
    for step in 0..count {
        let offset = random.below(SIZE / 512) * 512;
        let most = if random.below(3) == 0 { LONGEST } else { 16 << 10 };
        let length = ((1 + random.below(most / 512)) * 512).min(SIZE - offset);
        let range = offset as usize..(offset + length) as usize;
        let tag = random.below(DEPTH.into()) as u16;
        match random.below(12) {
            0..=5 => {
                let pattern = 1 + random.below(255) as u8;
                writeln!(commands, "write -P {pattern} {offset} {length}").unwrap();
                model[range].fill(pattern);
                bench.buffer(tag)[..length as usize].fill(pattern);
                assert_eq!(
                    finish(&mut bench, tag, Descriptor::new(Op::Write, offset, length)),
                    Ok(length as u32)
                );
            }
            6 | 7 => {
                writeln!(commands, "write -z -u {offset} {length}").unwrap();
                model[range].fill(0);
                let mut what = Descriptor::new(Op::WriteZeroes, offset, length);
                if random.below(2) == 0 {
                    what.flags = Flags::NO_UNMAP;
                }
                finish(&mut bench, tag, what).unwrap();
            }
            8 => drop(finish(&mut bench, tag, Descriptor::new(Op::Flush, 0, 0)).unwrap()),
            _ => {
                let answer = finish(&mut bench, tag, Descriptor::new(Op::Read, offset, length));
                assert_eq!(answer, Ok(length as u32));
                assert!(
                    bench.buffer(tag)[..length as usize] == model[range],
                    "step {step}: {offset} {length}"
                );
            }
        }
        if step == count / 2 {
            drop(bench); // the next session begins with what the file has
            bench = Bench::new(disk.clone(), DEPTH, LONGEST as u32);
        }
    }
    drop(bench);
    let script = dir.path().join("commands");
    std::fs::write(&script, commands).unwrap();
    let mut qemu_io = std::process::Command::new("qemu-io");
    let done = qemu_io.args(["-f", "qcow2", text(&theirs)]).stdin(std::fs::File::open(&script).unwrap());
    assert!(done.output().unwrap().status.success());
    for image in [&ours, &theirs] {
        qemu_ok("qemu-img", &["check", "-q", "-f", "qcow2", text(image)]);
    }
    qemu_ok("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", text(&ours), text(&theirs)]);
    let raw = dir.path().join("result");
    qemu_ok("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&ours), text(&raw)]);
    assert!(std::fs::read(raw).unwrap() == model, "qemu-img reads something else");
}

#[test]
fn the_same_operations_leave_the_same_data_as_in_qemu() {
    let rounds = setting("UBLK_TS_QCOW2_ROUNDS", 1);
    for round in 0..rounds {
        for (number, (options, backing)) in [
            ("cluster_size=64k", None),
            ("cluster_size=512", None),
            ("cluster_size=2M", Some("raw")),
            ("cluster_size=64k,refcount_bits=1", Some("qcow2")),
            ("cluster_size=4k,refcount_bits=64", Some("compressed")),
            ("cluster_size=16k,compat=0.10", None),
            ("cluster_size=16k,compat=0.10", Some("raw")),
        ]
        .into_iter()
        .enumerate()
        {
            compare(options, backing, number % 2 == 1, round * 100 + number as u64, 300);
        }
    }
}

#[test]
fn a_discard_frees_clusters_and_their_space() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(&path, "cluster_size=64k", "6M");
    let disk = open(&path, &[], false);
    let mut bench = Bench::new(disk, DEPTH, LONGEST as u32);
    let blocks = || std::fs::metadata(&path).unwrap().blocks();
    let write = |bench: &mut Bench, offset| {
        bench.buffer(0).fill(7);
        finish(bench, 0, Descriptor::new(Op::Write, offset, 256 << 10)).unwrap();
    };
    for at in 0..16 {
        write(&mut bench, at * (256 << 10));
    }
    finish(&mut bench, 0, Descriptor::new(Op::Flush, 0, 0)).unwrap();
    let full = blocks();
    // Both ends are parts of clusters, which stay.
    finish(&mut bench, 0, Descriptor::new(Op::Discard, 4096, (4 << 20) - 8192)).unwrap();
    assert!(blocks() + (61 << 16) / 512 <= full, "{} of {full} blocks", blocks());
    finish(&mut bench, 0, Descriptor::new(Op::Read, 0, 128 << 10)).unwrap();
    assert!(bench.buffer(0)[..64 << 10].iter().all(|byte| *byte == 7));
    assert!(bench.buffer(0)[64 << 10..128 << 10].iter().all(|byte| *byte == 0));
    let length = std::fs::metadata(&path).unwrap().len();
    for at in 0..12 {
        write(&mut bench, (64 << 10) + at * (256 << 10));
    }
    drop(bench);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length, "free clusters are used again");
    qemu_ok("qemu-img", &["check", "-q", text(&path)]);
}

#[test]
fn a_durable_write_has_a_durable_mapping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(&path, "cluster_size=64k", "6M");
    for (number, through) in [(0, false), (1, true)] {
        let disk = open(&path, &[], through);
        let mut bench = Bench::new(disk.clone(), DEPTH, LONGEST as u32);
        let durable = || {
            let state = disk.state();
            !state.session.as_ref().unwrap().shared.unsynced.load(std::sync::atomic::Ordering::SeqCst)
        };
        let write = |bench: &mut Bench, cluster: u64, flags| {
            let at = (number * 10 + cluster) << 16;
            let mut what = Descriptor::new(Op::Write, at, 4096);
            what.flags = flags;
            finish(bench, 0, what).unwrap();
        };
        write(&mut bench, 0, Flags::NONE);
        assert!(!durable());
        write(&mut bench, 0, Flags::FUA); // the mapping is the earlier write's
        assert!(durable());
        write(&mut bench, 1, Flags::FUA);
        assert!(durable());
        write(&mut bench, 2, Flags::NONE);
        assert!(!durable());
        finish(&mut bench, 0, Descriptor::new(Op::Discard, (number * 10) << 16, 65536)).unwrap();
        assert!(durable());
    }
}

#[test]
fn requests_in_flight_together_neither_mix_nor_lose_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(&path, "cluster_size=64k", "6M");
    let disk = open(&path, &[], true);
    let threads: Vec<_> = (0..3_u64)
        .map(|thread| {
            let disk = disk.clone();
            std::thread::spawn(move || {
                // Blocks of 4 KiB in turn: each cluster is everyone's.
                let mut bench = Bench::new(disk, DEPTH, 4096);
                let mut random = Random(thread);
                let mut blocks = vec![0_u8; (SIZE / 4096) as usize];
                let mut busy: Vec<Option<(usize, u8)>> = vec![None; DEPTH.into()];
                let mut started = 0;
                let rounds = setting("UBLK_TS_QCOW2_ROUNDS", 1) * 2000;
                while started < rounds || busy.iter().any(Option::is_some) {
                    for tag in 0..DEPTH {
                        if busy[usize::from(tag)].is_some() || started >= rounds {
                            continue;
                        }
                        let block = (random.below(SIZE / 4096 / 3) * 3 + thread) as usize;
                        if busy.iter().flatten().any(|(other, _)| *other == block) {
                            continue;
                        }
                        started += 1;
                        let value = random.next() as u8;
                        let (op, value) = match random.below(8) {
                            0..=3 => (Op::Write, value),
                            4 => (Op::WriteZeroes, 0),
                            _ => (Op::Read, blocks[block]),
                        };
                        if op == Op::Write {
                            bench.buffer(tag)[..4096].fill(value);
                        }
                        busy[usize::from(tag)] = Some((block, value));
                        let what = Descriptor::new(op, block as u64 * 4096, 4096);
                        if let Some(outcome) = bench.start(tag, what) {
                            done(&mut bench, tag, outcome, &mut busy, &mut blocks, op == Op::Read);
                        } else if op == Op::Read {
                            // Its data is compared when it comes.
                            while busy[usize::from(tag)].is_some() {
                                for (other, outcome) in turn(&mut bench) {
                                    done(&mut bench, other, outcome, &mut busy, &mut blocks, other == tag);
                                }
                            }
                        }
                    }
                    for (tag, outcome) in turn(&mut bench) {
                        done(&mut bench, tag, outcome, &mut busy, &mut blocks, false);
                    }
                }
                blocks
            })
        })
        .collect();
    let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    drop(disk);
    qemu_ok("qemu-img", &["check", "-q", text(&path)]);
    let raw = dir.path().join("raw");
    qemu_ok("qemu-img", &["convert", "-O", "raw", text(&path), text(&raw)]);
    for (block, data) in std::fs::read(raw).unwrap().chunks(4096).enumerate() {
        assert!(data.iter().all(|byte| *byte == results[block % 3][block]), "block {block}");
    }
}

fn done(
    bench: &mut Bench,
    tag: u16,
    outcome: Outcome,
    busy: &mut [Option<(usize, u8)>],
    blocks: &mut [u8],
    read: bool,
) {
    outcome.unwrap();
    let (block, value) = busy[usize::from(tag)].take().unwrap();
    if read {
        assert!(bench.buffer(tag)[..4096].iter().all(|byte| *byte == value), "block {block}");
    } else {
        blocks[block] = value;
    }
}
