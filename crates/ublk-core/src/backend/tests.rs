//! Any tree of slices, concats, stripes and overlays, over disks that complete in any order and fail, against an array of bytes.

use super::later::{Later, Waiting};
use super::testing::Bench;
use super::{
    Backend, Concat, Discard, External, File, Memory, Observed, Overlay, Properties, Segments, Slice,
    Storage, Stripe,
};
use crate::error::Result;
use crate::queue::{Descriptor, Op};
use proptest::prelude::*;
use std::sync::Arc;

const BLOCK: u64 = 512;
const DEPTH: u16 = 4;
const MAX_IO: u32 = 16 << 10;

#[derive(Debug, Clone)]
enum Tree {
    /// Blocks, and which kind.
    Leaf(u64, u8),
    /// Blocks that are left out before and after.
    Slice(Box<Tree>, u64, u64),
    Concat(Vec<Tree>),
    /// Blocks in a chunk; all disks are cut to the same size.
    Stripe(Vec<Tree>, u64),
    /// Its size in percent of its base's, and whether its upper waits.
    Overlay(Box<Tree>, u64, bool),
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = (8_u64..40, 0_u8..3).prop_map(|(blocks, kind)| Tree::Leaf(blocks, kind));
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0_u64..4, 0_u64..3).prop_map(|(tree, before, after)| Tree::Slice(
                Box::new(tree),
                before,
                after
            )),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::Concat),
            (prop::collection::vec(inner.clone(), 1..4), 1_u64..5)
                .prop_map(|(trees, chunk)| Tree::Stripe(trees, chunk)),
            (inner, prop_oneof![Just(100), 10_u64..200], any::<bool>())
                .prop_map(|(tree, percent, later)| Tree::Overlay(Box::new(tree), percent, later)),
        ]
    })
}

/// What a tree was built to: the disk, and its blocks.
struct Built {
    disk: Arc<dyn Backend>,
    blocks: Vec<Block>,
}

#[derive(Clone, Copy)]
struct Block {
    /// The bytes that it has at first.
    fill: u8,
    /// Where it is: which leaf, and which block of that. None: in an upper.
    at: Option<(usize, u64)>,
}

/// The bytes that a block of a leaf has at first.
fn initial(leaf: usize, block: u64) -> u8 {
    ((leaf as u64 * 37 + block * 11) % 251 + 1) as u8
}

#[derive(Default)]
struct Leaves {
    disks: Vec<Arc<dyn Backend>>,
    waiting: Waiting,
    files: Vec<tempfile::NamedTempFile>,
}

impl Leaves {
    fn build(&mut self, tree: &Tree) -> Built {
        match tree {
            Tree::Leaf(blocks, kind) => {
                let leaf = self.disks.len();
                let bytes = |block| std::iter::repeat_n(initial(leaf, block), BLOCK as usize);
                let bytes: Vec<_> = (0..*blocks).flat_map(bytes).collect();
                let memory = || {
                    let memory = Memory::new(blocks * BLOCK).unwrap();
                    memory.store(0, &bytes).unwrap();
                    Arc::new(memory)
                };
                let disk: Arc<dyn Backend> = match kind {
                    0 => memory(),
                    1 => Arc::new(Later { disk: memory(), waiting: self.waiting.clone() }),
                    _ => {
                        let file = tempfile::NamedTempFile::new().unwrap();
                        std::fs::write(file.path(), &bytes).unwrap();
                        let disk = File::open(file.path(), false, false).unwrap().without_claim();
                        self.files.push(file);
                        Arc::new(disk)
                    }
                };
                self.disks.push(disk.clone());
                let block = |block| Block { fill: initial(leaf, block), at: Some((leaf, block)) };
                Built { disk, blocks: (0..*blocks).map(block).collect() }
            }
            Tree::Slice(inner, before, after) => {
                let Built { disk, blocks } = self.build(inner);
                let length = (blocks.len() as u64).saturating_sub(before + after).max(1);
                let before = (*before).min(blocks.len() as u64 - length);
                let disk = Arc::new(Slice::new(disk, before * BLOCK, Some(length * BLOCK)).unwrap());
                let blocks = blocks[before as usize..(before + length) as usize].to_vec();
                Built { disk, blocks }
            }
            Tree::Concat(trees) => {
                let built: Vec<_> = trees.iter().map(|tree| self.build(tree)).collect();
                let disks = built.iter().map(|built| built.disk.clone()).collect();
                let blocks = built.into_iter().flat_map(|built| built.blocks).collect();
                Built { disk: Arc::new(Concat::new(disks).unwrap()), blocks }
            }
            Tree::Stripe(trees, chunk) => {
                let built: Vec<_> = trees.iter().map(|tree| self.build(tree)).collect();
                let least = built.iter().map(|built| built.blocks.len() as u64).min().unwrap();
                let chunk = (*chunk).min(least);
                let each = least / chunk * chunk;
                let cut = |built: &Built| -> Arc<dyn Backend> {
                    Arc::new(Slice::new(built.disk.clone(), 0, Some(each * BLOCK)).unwrap())
                };
                let disks: Vec<_> = built.iter().map(cut).collect();
                let number = disks.len() as u64;
                let blocks = (0..each * number).map(|block| {
                    let (row, within) = (block / (chunk * number), block % (chunk * number));
                    built[(within / chunk) as usize].blocks[(row * chunk + within % chunk) as usize]
                });
                let blocks = blocks.collect();
                Built { disk: Arc::new(Stripe::new(disks, chunk * BLOCK).unwrap()), blocks }
            }
            Tree::Overlay(inner, percent, later) => {
                let Built { disk, blocks } = self.build(inner);
                let size = (blocks.len() as u64 * percent / 100).max(1);
                let waiting = self.waiting.clone();
                let upper = Arc::new(Memory::new(size * BLOCK).unwrap());
                let upper: Arc<dyn Backend> =
                    if *later { Arc::new(Later { disk: upper, waiting }) } else { upper };
                let disk = Arc::new(Overlay::with_upper(disk, upper, size * BLOCK).unwrap());
                let fills = blocks.iter().map(|block| block.fill).chain(std::iter::repeat(0));
                let blocks = fills.take(size as usize).map(|fill| Block { fill, at: None }).collect();
                Built { disk, blocks }
            }
        }
    }

    /// What a leaf holds, by its own engine.
    fn bytes(&self, leaf: usize) -> Vec<u8> {
        let disk = self.disks[leaf].clone();
        let size = disk.properties().size;
        let mut bench = Bench::new(disk, 1, size as u32);
        let mut outcome = bench.start(0, Descriptor::new(Op::Read, 0, size));
        while outcome.is_none() {
            self.let_go(0, 0);
            outcome = bench.turn().pop().map(|(_, outcome)| outcome);
        }
        assert_eq!(outcome, Some(Ok(size as u32)));
        bench.buffer(0)[..size as usize].to_vec()
    }

    /// Lets one of those that wait go on, or fail. Whether there was one.
    fn let_go(&self, which: usize, result: i32) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        if waiting.is_empty() {
            return false;
        }
        let at = which % waiting.len();
        let (completer, token, _) = waiting.swap_remove(at);
        completer.complete(token, result);
        true
    }
}

/// A request, and what is done before the next: how many that wait go on, in which order, and whether they fail.
#[derive(Debug, Clone)]
struct Action {
    op: Op,
    offset: u64,
    length: u64,
    fill: u8,
    let_go: Vec<(usize, bool)>,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let op = prop_oneof![
        4 => Just(Op::Write),
        4 => Just(Op::Read),
        1 => Just(Op::WriteZeroes),
        1 => Just(Op::Discard),
        1 => Just(Op::Flush)
    ];
    let let_go = prop::collection::vec((0_usize..64, prop::bool::weighted(0.05)), 0..6);
    let action = (op, any::<prop::sample::Index>(), 1_u64..33, any::<u8>(), let_go);
    prop::collection::vec(action, 1..40).prop_map(|actions| {
        let action = |(op, index, length, fill, let_go): (_, prop::sample::Index, _, _, _)| Action {
            op,
            offset: index.index(1 << 20) as u64,
            length,
            fill,
            let_go,
        };
        actions.into_iter().map(action).collect()
    })
}

/// The bytes of the disk, by block: `None` where a request failed that would have changed them.
struct Model {
    blocks: Vec<Option<u8>>,
    flying: Vec<Option<Action>>,
    answers: usize,
}

impl Model {
    fn answered(&mut self, bench: &mut Bench, tag: u16, outcome: std::result::Result<u32, i32>) {
        let action = self.flying[usize::from(tag)].take().expect("it was answered once");
        self.answers += 1;
        let blocks = action.offset as usize..(action.offset + action.length) as usize;
        match (action.op, outcome) {
            (Op::Flush, _) => {}
            (Op::Read, Ok(done)) => {
                assert_eq!(u64::from(done), action.length * BLOCK);
                let data = bench.buffer(tag);
                for (at, expected) in self.blocks[blocks].iter().enumerate() {
                    let block = &data[at * BLOCK as usize..][..BLOCK as usize];
                    if let Some(expected) = expected {
                        assert!(block.iter().all(|byte| byte == expected), "{action:?}, block {at}");
                    }
                }
            }
            (Op::Read, Err(errno)) => assert_eq!(errno, libc::EIO),
            (Op::Write, Ok(done)) => {
                assert_eq!(u64::from(done), action.length * BLOCK);
                self.blocks[blocks].fill(Some(action.fill));
            }
            (_, Ok(_)) => self.blocks[blocks].fill(Some(0)),
            (_, Err(errno)) => {
                assert!(errno == libc::EIO || errno == libc::EOPNOTSUPP, "{errno}");
                self.blocks[blocks].fill(None);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 300 }, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_of_disks_is_the_disk_that_it_says(
        tree in trees(),
        actions in actions(),
        // None: each chunk is an operation. Few: an operation has a part of its data only.
        segments in prop_oneof![Just(0), 1_u16..6, Just(u16::MAX)],
    ) {
        let mut leaves = Leaves::default();
        let Built { disk, blocks } = leaves.build(&tree);
        assert_eq!(disk.properties().size, blocks.len() as u64 * BLOCK);
        let discard: Option<Discard> = disk.properties().discard;
        let mut bench = Bench::with_segments(disk, DEPTH, MAX_IO, segments);
        let contents = blocks.iter().map(|block| Some(block.fill)).collect();
        let mut model = Model { blocks: contents, flying: vec![None; DEPTH.into()], answers: 0 };
        let mut started = 0;
        for action in actions {
            let offset = action.offset % blocks.len() as u64;
            let length = action.length.min(blocks.len() as u64 - offset).min(u64::from(MAX_IO) / BLOCK);
            let mut action = Action { offset, length, ..action };
            if action.op == Op::Flush {
                (action.offset, action.length) = (0, 0);
            }
            if matches!(action.op, Op::Discard | Op::WriteZeroes) && discard.is_none() {
                continue;
            }
            // The clients of a disk wait for a request before they send another for the same bytes.
            let busy = |model: &Model| {
                let clash = |other: &Action| {
                    action.offset < other.offset + other.length && other.offset < action.offset + action.length
                };
                model.flying.iter().all(Option::is_some) || model.flying.iter().flatten().any(clash)
            };
            while busy(&model) {
                leaves.let_go(0, 0);
                for (tag, outcome) in bench.turn() {
                    model.answered(&mut bench, tag, outcome);
                }
            }
            let tag = model.flying.iter().position(Option::is_none).unwrap() as u16;
            let fill = if action.op == Op::Write { action.fill } else { 0xee };
            bench.buffer(tag)[..(action.length * BLOCK) as usize].fill(fill);
            let what = Descriptor::new(action.op, action.offset * BLOCK, action.length * BLOCK);
            let let_go = action.let_go.clone();
            model.flying[usize::from(tag)] = Some(action);
            started += 1;
            if let Some(outcome) = bench.start(tag, what) {
                model.answered(&mut bench, tag, outcome);
            }
            for (which, fails) in let_go {
                leaves.let_go(which, if fails { -libc::EIO } else { 0 });
                for (tag, outcome) in bench.turn() {
                    let waits = leaves.waiting.lock().unwrap().iter().any(|(_, _, waiting)| *waiting == tag);
                    assert!(!waits, "it was answered too early");
                    model.answered(&mut bench, tag, outcome);
                }
            }
        }
        while leaves.let_go(0, 0) || bench.operations() > 0 || model.flying.iter().any(Option::is_some) {
            for (tag, outcome) in bench.turn() {
                model.answered(&mut bench, tag, outcome);
            }
        }
        assert_eq!(model.answers, started);
        for block in 0..blocks.len() as u64 {
            let (read, mut done) = (Descriptor::new(Op::Read, block * BLOCK, BLOCK), false);
            model.flying[0] = Some(Action { op: Op::Read, offset: block, length: 1, fill: 0, let_go: Vec::new() });
            if let Some(outcome) = bench.start(0, read) {
                model.answered(&mut bench, 0, outcome);
                done = true;
            }
            while !done {
                leaves.let_go(0, 0);
                for (tag, outcome) in bench.turn() {
                    model.answered(&mut bench, tag, outcome);
                    done = true;
                }
            }
        }
        // Each block is where it belongs, and nothing else was touched: no base of an overlay.
        let leaf_bytes: Vec<_> = (0..leaves.disks.len()).map(|leaf| leaves.bytes(leaf)).collect();
        let mut expected: Vec<Vec<Option<u8>>> = (0..)
            .zip(&leaf_bytes)
            .map(|(leaf, bytes)| {
                (0..bytes.len() as u64 / BLOCK).map(|block| Some(initial(leaf, block))).collect()
            })
            .collect();
        for (content, Block { at, .. }) in model.blocks.iter().zip(&blocks) {
            if let Some((leaf, block)) = at {
                expected[*leaf][*block as usize] = *content;
            }
        }
        for (leaf, expected) in expected.iter().enumerate() {
            for (block, content) in expected.iter().enumerate() {
                let bytes = &leaf_bytes[leaf][block * BLOCK as usize..][..BLOCK as usize];
                assert!(content.is_none_or(|content| bytes.iter().all(|byte| *byte == content)), "leaf {leaf}, block {block}");
            }
        }
    }
}

#[test]
fn a_request_takes_one_operation_of_each_file_of_a_stripe() {
    let dir = tempfile::tempdir().unwrap();
    let disks = ["a", "b", "c"].map(|name| file(&dir, name, 64)).to_vec();
    let stripe: Arc<dyn Backend> = Arc::new(Stripe::new(disks, BLOCK).unwrap());
    let halves = (0..2).map(|half| -> Arc<dyn Backend> {
        Arc::new(Slice::new(stripe.clone(), half * 96 * BLOCK, Some(96 * BLOCK)).unwrap())
    });
    let concat: Arc<dyn Backend> = Arc::new(Concat::new(halves.collect()).unwrap());
    // Whole, in two halves of a concat, and where the tags have no room for scattered data.
    for (disk, segments, expected) in
        [(&stripe, u16::MAX, 3), (&concat, u16::MAX, 6), (&stripe, 0, 32), (&concat, 0, 32)]
    {
        let mut bench = Bench::with_segments(disk.clone(), 1, MAX_IO, segments);
        let write = Descriptor::new(Op::Write, 80 * BLOCK, 32 * BLOCK);
        assert_eq!(bench.start(0, write), None);
        assert_eq!(bench.operations(), expected);
        while bench.turn().is_empty() {}
    }
}

/// A file of `blocks` blocks, opened once more by each call.
fn file(dir: &tempfile::TempDir, name: &str, blocks: u64) -> Arc<dyn Backend> {
    let path = dir.path().join(name);
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path).unwrap();
    file.set_len(blocks * BLOCK).unwrap();
    Arc::new(File::open(&path, false, false).unwrap())
}

#[test]
fn the_same_bytes_of_a_file_cannot_be_in_a_stack_twice() {
    let dir = tempfile::tempdir().unwrap();
    let part = |from: u64, blocks: u64| -> Arc<dyn Backend> {
        Arc::new(Slice::new(file(&dir, "a", 64), from * BLOCK, Some(blocks * BLOCK)).unwrap())
    };
    let refused = |made: Result<Arc<dyn Backend>>| made.err().map(|error| error.message);
    let stripe = |disks| Stripe::new(disks, 4 * BLOCK).map(|disk| Arc::new(disk) as Arc<dyn Backend>);
    let concat = |disks| Concat::new(disks).map(|disk| Arc::new(disk) as Arc<dyn Backend>);
    let path = dir.path().join("a").display().to_string();
    let twice = |kind| Some(format!("disks 1 and 2 of the {kind} have the same bytes of {path}"));

    assert_eq!(refused(stripe(vec![file(&dir, "a", 64), file(&dir, "a", 64)])), twice("stripe"));
    std::fs::hard_link(dir.path().join("a"), dir.path().join("link")).unwrap();
    let linked = refused(concat(vec![file(&dir, "a", 64), file(&dir, "link", 64)])).unwrap();
    assert!(linked.ends_with("/link"), "{linked}");

    assert_eq!(refused(stripe(vec![part(0, 32), part(32, 32)])), None);
    assert_eq!(refused(concat(vec![part(0, 33), part(32, 32)])), twice("concat"));

    // The first and the second half of one stripe have different halves of each of its files.
    let whole = || stripe(vec![file(&dir, "a", 64), file(&dir, "b", 64)]).unwrap();
    let half = |from: u64, blocks: u64| -> Arc<dyn Backend> {
        Arc::new(Slice::new(whole(), from * BLOCK, Some(blocks * BLOCK)).unwrap())
    };
    assert_eq!(refused(concat(vec![half(64, 64), half(0, 64)])), None);
    let overlap = refused(concat(vec![half(0, 72), half(68, 60)])).unwrap(); // of the second chunk of a row
    assert!(overlap.ends_with("/b"), "{overlap}");
}

/// A disk with these properties, that serves nothing.
fn with(properties: Properties) -> Arc<dyn Backend> {
    Arc::new(External::new(Properties { size: 64 * BLOCK, ..properties }))
}

#[test]
fn the_segments_of_a_composed_disk_suit_each_of_its_disks() {
    let limits = |most, size, boundary| Properties {
        segments: Segments { most, size, boundary },
        ..Properties::new(64 * BLOCK)
    };
    let disks = || vec![with(limits(8, 0, 65536)), with(limits(0, 8192, 4096)), with(limits(16, 65536, 0))];
    let together = Segments { most: 8, size: 8192, boundary: 4096 };
    assert_eq!(Concat::new(disks()).unwrap().properties().segments, together);
    assert_eq!(Stripe::new(disks(), 4 * BLOCK).unwrap().properties().segments, together);
    let slice = Slice::new(with(limits(8, 8192, 4096)), BLOCK, None).unwrap();
    assert_eq!(slice.properties().segments, together);
    let observed = Observed::new(with(limits(8, 8192, 4096)), Arc::new(|_| {}));
    assert_eq!(observed.properties().segments, together);
    let unlimited = Concat::new(vec![with(Properties::new(0)), with(Properties::new(0))]).unwrap();
    assert!(unlimited.properties().segments.is_unlimited());
}

#[test]
fn no_request_of_a_composed_disk_crosses_a_chunk_of_its_disks() {
    let chunked = |chunk: u64| with(Properties { chunk: (chunk * BLOCK) as u32, ..Properties::new(0) });
    let blocks = |disk: &dyn Backend| u64::from(disk.properties().chunk) / BLOCK;
    let slice = |offset: u64| Slice::new(chunked(8), offset * BLOCK, None).unwrap();
    assert_eq!([0, 8, 12, 1].map(|offset| blocks(&slice(offset))), [8, 8, 4, 1]);
    let concat = |disks| Concat::new(disks).unwrap();
    assert_eq!(blocks(&concat(vec![chunked(8), chunked(0)])), 8);
    assert_eq!(blocks(&concat(vec![chunked(0), chunked(12)])), 4); // it begins at 64
    assert_eq!(blocks(&concat(vec![chunked(0), chunked(0)])), 0);
    let stripe = |disks, chunk: u64| Stripe::new(disks, chunk * BLOCK).unwrap();
    assert_eq!(blocks(&stripe(vec![chunked(8), chunked(0)], 4)), 0); // the stripe's chunks are smaller
    assert_eq!(blocks(&stripe(vec![chunked(8), chunked(12)], 16)), 4);
}
