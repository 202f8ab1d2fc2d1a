//! Every moment at which a server may be killed, and many of the states in which a power cut may leave an image: QEMU finds
//! no error in any, and no flushed data is lost.

use super::{Random, create, has_no_errors, qemu_ok, setting, text};
use crate::Options;
use crate::qcow2::chain;
use crate::qcow2::mapper::{Clear, Mapper, Shared};
use crate::qcow2::order::Event;
use crate::qcow2::scratch::Scratch;
use crate::qcow2::table::Table;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const SIZE: u64 = 3 << 20;

#[derive(Clone)]
enum Change {
    Write { durably: bool, at: u64, data: Vec<u8> },
    Zero { at: u64, length: u64 },
    Lengthen(u64),
    Sync,
}

/// What the disk may hold at a moment.
#[derive(Clone)]
struct Moment {
    /// How many changes of the file came before it.
    changes: usize,
    /// What each block of 512 bytes holds; a discarded one anything.
    blocks: Vec<Option<u8>>,
    /// It was flushed.
    flushed: bool,
}

/// A history of an image.
struct History {
    dir: tempfile::TempDir,
    begin: PathBuf,
    changes: Vec<Change>,
    moments: Vec<Moment>,
    through: bool,
}

fn play(options: &str, backing: bool, through: bool, careless: bool, seed: u64) -> History {
    let dir = tempfile::tempdir().unwrap();
    let (image, base, begin) = (dir.path().join("image"), dir.path().join("base"), dir.path().join("begin"));
    let mut options = options.to_owned();
    let mut blocks = vec![Some(0_u8); (SIZE / 512) as usize];
    if backing {
        fs::write(&base, vec![0xbb; SIZE as usize]).unwrap();
        options += &format!(",backing_fmt=raw,backing_file={}", text(&base));
        blocks.fill(Some(0xbb));
    }
    create(&image, &options, &SIZE.to_string());
    fs::copy(&image, &begin).unwrap();
    let opened = chain::open(&image, &Options { backing: vec![base], ..Options::default() });
    let opened = opened.or_else(|_| chain::open(&image, &Options::default())).unwrap();
    let bits = opened[0].header.as_ref().unwrap().cluster_bits;
    let shared = Shared::new(Table::new(SIZE, bits).unwrap());
    let mut mapper = Mapper::open(&opened, true, through, Scratch::new(1 << bits).unwrap()).unwrap();
    let changes = Arc::new(Mutex::new(Vec::new()));
    {
        let changes = changes.clone();
        let mut order = mapper.image().order().unwrap();
        order.careless = careless;
        order.watch = Some(Box::new(move |event| {
            changes.lock().unwrap().push(match event {
                Event::Write(durably, at, data) => Change::Write { durably, at, data: data.to_vec() },
                Event::Zero(at, length) => Change::Zero { at, length },
                Event::Lengthen(length) => Change::Lengthen(length),
                Event::Sync => Change::Sync,
            });
        }));
    }
    let mut moments = vec![Moment { changes: 0, blocks: blocks.clone(), flushed: true }];
    let mut random = Random(seed);
    for _ in 0..60 {
        let first = random.below(SIZE / 512);
        let most = if random.below(3) == 0 { 400 } else { 16 };
        let count = (1 + random.below(most)).min(SIZE / 512 - first);
        let range = first * 512..(first + count) * 512;
        let touched = &mut blocks[first as usize..(first + count) as usize];
        let mut flushed = false;
        match random.below(10) {
            0..=5 => {
                let value = 1 + random.below(0x7f) as u8;
                mapper.allocate(range.clone(), &shared).unwrap();
                mapper.after_allocations(&shared).unwrap();
                for at in range.step_by(512) {
                    let entry = shared.table.get(at);
                    assert!(entry.is_writable());
                    let at = entry.offset() + at % (1 << bits);
                    opened[0].file.write_all_at(&[value; 512], at).unwrap();
                    changes.lock().unwrap().push(Change::Write {
                        durably: false,
                        at,
                        data: vec![value; 512],
                    });
                }
                touched.fill(Some(value));
            }
            6 | 7 => {
                let (zeroes, keep) = (random.below(2) == 0, random.below(2) == 0);
                mapper.clear(&[Clear { range, zeroes, keep }], &shared).unwrap().remove(0).unwrap();
                touched.fill(zeroes.then_some(0));
                flushed = true; // of what was before
            }
            _ => {
                mapper.flush(&shared).unwrap();
                flushed = true;
            }
        }
        moments.push(Moment { changes: changes.lock().unwrap().len(), blocks: blocks.clone(), flushed });
    }
    drop(mapper);
    let changes = std::mem::take(&mut *changes.lock().unwrap());
    History { dir, begin, changes, moments, through }
}

fn apply(file: &File, change: &Change) {
    match change {
        Change::Write { at, data, .. } => file.write_all_at(data, *at).unwrap(),
        Change::Zero { at, length } => {
            // Beyond the end there is nothing to zero.
            let length = file.metadata().unwrap().len().saturating_sub(*at).min(*length);
            file.write_all_at(&vec![0; length as usize], *at).unwrap();
        }
        Change::Lengthen(length) => file.set_len(file.metadata().unwrap().len().max(*length)).unwrap(),
        Change::Sync => {}
    }
}

impl History {
    fn state(&self) -> (PathBuf, File) {
        let path = self.dir.path().join("state");
        fs::copy(&self.begin, &path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        (path, file)
    }

    fn content(&self, path: &Path) -> Vec<u8> {
        let raw = self.dir.path().join("raw");
        qemu_ok("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
        fs::read(raw).unwrap()
    }

    /// The server is killed after so many changes.
    fn killed(&self, at: usize) -> Result<(), String> {
        let (path, file) = self.state();
        self.changes[..at].iter().for_each(|change| apply(&file, change));
        has_no_errors(&path)?;
        let last = self.moments.iter().rposition(|moment| moment.changes <= at).unwrap();
        if self.through {
            self.compare(&path, last, at)
        } else {
            let flushed = self.moments[..=last].iter().rposition(|moment| moment.flushed).unwrap();
            self.compare(&path, flushed, at)
        }
    }

    /// The power is cut after so many changes: any of those since the last sync may be missing, or a part of one.
    fn cut(&self, at: usize, random: &mut Random) -> Result<(), String> {
        let (path, file) = self.state();
        let synced =
            self.changes[..at].iter().rposition(|change| matches!(change, Change::Sync)).unwrap_or(0);
        for (number, change) in self.changes[..at].iter().enumerate() {
            match change {
                _ if number < synced => apply(&file, change),
                Change::Write { durably: true, .. } => apply(&file, change),
                Change::Write { at, data, .. } => {
                    for (block, data) in data.chunks(512).enumerate() {
                        if random.below(2) == 0 {
                            file.write_all_at(data, at + block as u64 * 512).unwrap();
                        }
                    }
                }
                other if random.below(2) == 0 => apply(&file, other),
                _ => {}
            }
        }
        has_no_errors(&path)?;
        let until = |moment: &&Moment| moment.changes <= synced;
        let last = self.moments.iter().take_while(until).count() - 1;
        let flushed = self.moments[..=last].iter().rposition(|moment| moment.flushed).unwrap();
        self.compare(&path, flushed, at)
    }

    /// Each block has what it had at a moment, or what it got after that.
    fn compare(&self, path: &Path, from: usize, at: usize) -> Result<(), String> {
        let content = self.content(path);
        // The one that was under way counts, too.
        let later = self.moments[from..].iter().take_while(|moment| moment.changes <= at).count() + 1;
        let allowed = &self.moments[from..(from + later).min(self.moments.len())];
        for (number, block) in content.chunks(512).enumerate() {
            let same = |value: u8| block.iter().all(|byte| *byte == value);
            if !allowed.iter().any(|moment| moment.blocks[number].is_none_or(same)) {
                return Err(format!("block {number} has {}", block[0]));
            }
        }
        Ok(())
    }
}

const IMAGES: [(&str, bool, bool); 6] = [
    ("cluster_size=64k", false, false),
    ("cluster_size=64k", true, true),
    ("cluster_size=512", true, false),
    ("cluster_size=512,refcount_bits=64", false, true),
    ("cluster_size=4k,refcount_bits=1", true, false),
    ("cluster_size=4k,compat=0.10", true, true),
];

/// How often a history, and each of some moments of it, fails.
fn failures(history: &History, states: u64, random: &mut Random, first: &mut Option<String>) -> u64 {
    let mut count = 0;
    for state in 0..states {
        let at = random.below(history.changes.len() as u64 + 1) as usize;
        let (how, outcome) = match state % 2 {
            0 => ("killed", history.killed(at)),
            _ => ("cut", history.cut(at, random)),
        };
        if let Err(why) = outcome {
            first.get_or_insert_with(|| {
                format!("{how} after {at} of {} changes: {why}", history.changes.len())
            });
            count += 1;
        }
    }
    count
}

#[test]
fn an_image_has_no_errors_and_all_flushed_data_whenever_it_is_left() {
    let rounds = setting("UBLK_TS_QCOW2_ROUNDS", 1);
    for round in 0..rounds {
        for (number, (options, backing, through)) in IMAGES.into_iter().enumerate() {
            let seed = round * 100 + number as u64;
            let history = play(options, backing, through, false, seed);
            let mut first = None;
            failures(&history, 30, &mut Random(seed), &mut first);
            assert_eq!(first, None, "{options}, backing {backing}, through {through}, seed {seed}");
        }
    }
}

#[test]
fn without_the_order_images_have_errors() {
    let failed: u64 = IMAGES[..4]
        .iter()
        .map(|(options, backing, through)| {
            let history = play(options, *backing, *through, true, 1);
            failures(&history, 20, &mut Random(1), &mut None)
        })
        .sum();
    assert!(failed > 10, "only {failed} of 80 states");
}
