//! Disks that are taken back after another server has resized them.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

use super::testing::Bench;
use super::{Backend, File, MemoryFile, Null, Observed, Overlay, Tracked};
use crate::queue::{Descriptor, Op, Outcome};
use std::path::Path;
use std::sync::Arc;

const BEFORE: u64 = 1 << 20;

fn request(bench: &mut Bench, op: Op, offset: u64) -> Outcome {
    let mut outcome = bench.start(0, Descriptor::new(op, offset, 4096));
    while outcome.is_none() {
        outcome = bench.turn().first().map(|(_, outcome)| *outcome);
    }
    outcome.unwrap()
}

type Make = Box<dyn Fn(&Path) -> Arc<dyn Backend>>;

/// Every kind of disk that can be resized, and that another process can have.
fn kinds() -> Vec<(&'static str, Make)> {
    fn file(dir: &Path) -> Arc<dyn Backend> {
        Arc::new(File::open(&dir.join("file"), false, false).unwrap())
    }
    vec![
        ("null", Box::new(|_| Arc::new(Null::new(BEFORE)))),
        ("file", Box::new(file)),
        ("memory file", Box::new(|dir| Arc::new(MemoryFile::open(&dir.join("file"), BEFORE).unwrap()))),
        ("observed", Box::new(|dir| Arc::new(Observed::new(file(dir), Arc::new(|_| {}))))),
        ("tracked", Box::new(|dir| Arc::new(Tracked::open(file(dir), &dir.join("map"), false).unwrap()))),
        (
            "overlay",
            Box::new(|dir| Arc::new(Overlay::in_file(file(dir), &dir.join("upper"), None, false).unwrap())),
        ),
        (
            "tracked overlay",
            Box::new(|dir| {
                let below = Overlay::in_file(file(dir), &dir.join("upper"), None, false).unwrap();
                Arc::new(Tracked::open(Arc::new(below), &dir.join("map"), false).unwrap())
            }),
        ),
    ]
}

#[test]
fn a_disk_that_another_server_has_resized_is_taken_back_with_its_new_size() {
    for (kind, make) in kinds() {
        for after in [BEFORE * 3, BEFORE / 2] {
            let dir = tempfile::tempdir_in("/dev/shm").unwrap(); // a memory file is only possible there
            std::fs::File::create(dir.path().join("file")).unwrap().set_len(BEFORE).unwrap();
            let first = make(dir.path());
            drop(Bench::new(first.clone(), 1, 4096));
            first.let_go();
            {
                let second = make(dir.path());
                let mut bench = Bench::new(second.clone(), 1, 4096);
                second.resize(BEFORE, after).unwrap();
                request(&mut bench, Op::Write, after - 4096).unwrap();
                drop(bench);
                second.close().unwrap();
                second.let_go();
            }
            first.take_back(after).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert_eq!(first.properties().size, after, "{kind}");
            let mut bench = Bench::new(first.clone(), 1, 4096);
            request(&mut bench, Op::Read, after - 4096).unwrap_or_else(|errno| panic!("{kind}: {errno}"));
            request(&mut bench, Op::Write, after - 4096).unwrap_or_else(|errno| panic!("{kind}: {errno}"));
            // It can be resized again.
            first.resize(after, after + BEFORE).unwrap();
            request(&mut bench, Op::Write, after).unwrap_or_else(|errno| panic!("{kind}: {errno}"));
        }
    }
}
