use super::*;
use crate::qcow2::tests::{Random, qemu_ok};
use std::fs::{self, File};
use std::path::Path;
use ublk_core::backend::Sink;

const SIZE: usize = 256 << 10;

fn made() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let before: Vec<u8> = (0..SIZE).map(|at| (at / 4096 + at) as u8 | 1).collect();
    let mut after = before.clone();
    after[8192..16384].fill(7);
    after[65536..131072].fill(0);
    let mut stream = StreamDiff::new(Vec::new(), Aside::temporary());
    stream.begin(SIZE as u64).unwrap();
    stream.put(65536, &after[65536..131072]).unwrap();
    stream.put(8192, &after[8192..16384]).unwrap();
    (before, after, stream.finish().unwrap())
}

fn applied(dir: &Path, diff: &[u8], base: &[u8]) -> (Result<Applied, String>, Vec<u8>) {
    let (at, to) = (dir.join("diff"), dir.join("base"));
    fs::write(&at, diff).unwrap();
    fs::write(&to, base).unwrap();
    let result = apply(&at, &to, &|| false).map_err(|error| error.to_string());
    (result, fs::read(to).unwrap())
}

#[test]
fn a_checksum_is_that_of_the_standard() {
    assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(crc32c(0, b"1234567"), b"89"), 0xe306_9283);
    assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
}

#[test]
fn a_diff_makes_of_the_base_what_the_disk_was_even_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after, diff) = made();
    let all = Ok(Applied { extents: 2, bytes: 8192 + 65536 });
    assert_eq!(applied(dir.path(), &diff, &before), (all.clone(), after.clone()));
    assert_eq!(applied(dir.path(), &diff, &after), (all, after));
}

#[test]
fn a_diff_that_is_damaged_anywhere_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (before, _, diff) = made();
    let mut places: Vec<usize> = (0..200).chain(diff.len() - 200..diff.len()).collect();
    places.extend((200..diff.len()).step_by(997));
    for at in places {
        let mut wrong = diff.clone();
        wrong[at] ^= 0x10;
        let (result, base) = applied(dir.path(), &wrong, &before);
        let error = result.unwrap_err();
        assert!(!error.contains('\n') && base == before, "byte {at}: {error}");
        let (result, base) = applied(dir.path(), &diff[..at], &before);
        assert!(result.is_err() && base == before, "cut at {at}");
    }
    let mut longer = diff.clone();
    longer.push(0);
    assert!(applied(dir.path(), &longer, &before).0.unwrap_err().contains("is damaged"));
    let (result, _) = applied(dir.path(), &diff, &before[..4096]);
    assert!(result.unwrap_err().contains("of a disk of 262144 bytes, and"));
}

#[test]
fn an_output_appears_when_it_is_complete_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let count = || fs::read_dir(dir.path()).unwrap().count();
    let output = Output::create(&path).unwrap();
    assert_eq!(count(), 0);
    drop(output);
    assert_eq!(count(), 0);
    let output = Output::create(&path).unwrap();
    std::io::Write::write_all(&mut output.file().unwrap(), b"all").unwrap();
    output.complete().unwrap();
    assert_eq!((fs::read(&path).unwrap(), count()), (b"all".to_vec(), 1));
    assert!(Output::create(&path).err().unwrap().message.contains("exists already"));
}

fn below(random: &mut Random, end: usize) -> usize {
    random.below(end as u64) as usize
}

/// Changes of a disk whose size is no multiple of any unit: blocks of data, blocks of zeroes, in no order.
fn changes(random: &mut Random, base: &[u8]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut after, mut ranges) = (base.to_vec(), Vec::new());
    let blocks = base.len().div_ceil(4096);
    let mut at = below(random, 4);
    while at < blocks {
        let end = (at + 1 + below(random, 40)).min(blocks);
        let range = at * 4096..(end * 4096).min(base.len());
        for block in after[range.clone()].chunks_mut(4096) {
            let value = if below(random, 3) == 0 { 0 } else { random.below(256) as u8 };
            block.fill(value);
        }
        ranges.push(range);
        at = end + 1 + below(random, 60);
    }
    let middle = ranges.len() / 2;
    ranges.rotate_left(middle);
    (after, ranges)
}

fn put_all(sink: &mut dyn Sink, after: &[u8], ranges: &[Range<usize>]) {
    sink.begin(after.len() as u64).unwrap();
    for range in ranges {
        for part in range.clone().step_by(65536) {
            sink.put(part as u64, &after[part..range.end.min(part + 65536)]).unwrap();
        }
    }
}

#[test]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]
fn every_format_makes_of_the_base_what_the_disk_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for seed in 1..12 {
        let random = &mut Random(seed);
        let base: Vec<u8> =
            (0..(2 << 20) + 512 * below(random, 20)).map(|at| (at / 512 + at) as u8 | 1).collect();
        let (after, ranges) = changes(random, &base);
        fs::write(path("base"), &base).unwrap();

        let mut stream = StreamDiff::new(Vec::new(), Aside::temporary());
        put_all(&mut stream, &after, &ranges);
        assert!(applied(dir.path(), &stream.finish().unwrap(), &base).1 == after, "stream, {seed}");

        let mut raw = RawDiff::new(File::create(path("raw")).unwrap(), Aside::temporary());
        put_all(&mut raw, &after, &ranges);
        let list = raw.finish();
        let numbers: Vec<u64> = list
            .split(|char: char| !char.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        let listed: Vec<_> = numbers[2..].chunks_exact(2).map(|pair| pair[0]..pair[0] + pair[1]).collect();
        assert_eq!((numbers[0], listed.len()), (after.len() as u64, ranges.len()));
        let applied = apply_ranges(&path("raw"), numbers[0], &listed, &path("base"), &|| false).unwrap();
        assert_eq!(applied.bytes, numbers[1]);
        assert!(fs::read(path("base")).unwrap() == after, "raw, {seed}");

        fs::write(path("base"), &base).unwrap();
        for backing in [Some("base"), None] {
            let image = path("image");
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&image).unwrap();
            let backing = backing.map(|name| BackingFile { name: name.into(), format: "raw".into() });
            let (full, all) = (backing.is_none(), [0..after.len()]);
            let mut qcow2 = Qcow2Diff::new(file, Aside::temporary(), backing);
            put_all(&mut qcow2, &after, if full { &all } else { &ranges });
            qcow2.finish().unwrap();
            fs::write(path("after"), &after).unwrap();
            let (image, after) = (image.to_str().unwrap(), path("after"));
            qemu_ok("qemu-img", &["check", "-q", "-f", "qcow2", image]);
            qemu_ok(
                "qemu-img",
                &["compare", "-q", "-f", "qcow2", "-F", "raw", image, after.to_str().unwrap()],
            );
        }
    }
}

/// Only what a list names is read, so a list that names too much, or is another file's, changes nothing.
#[test]
fn a_raw_diff_with_another_list_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, base) = (dir.path().join("raw"), dir.path().join("base"));
    fs::write(&raw, [1; 8192]).unwrap();
    fs::write(&base, [2; 8192]).unwrap();
    for (size, range) in [(4096, 0..4096), (8192, 4096..12288)] {
        let error = apply_ranges(&raw, size, &[range], &base, &|| false).unwrap_err();
        assert!(error.message.ends_with("do not belong together"), "{error}");
    }
    assert_eq!(fs::read(&base).unwrap(), [2; 8192]);
}

#[test]
fn what_became_of_the_copy_is_said_when_it_is_interrupted() {
    use std::cell::Cell;
    let dir = tempfile::tempdir().unwrap();
    let (before, _, diff) = made();
    let (at, to) = (dir.path().join("diff"), dir.path().join("base"));
    fs::write(&at, &diff).unwrap();
    fs::write(&to, &before).unwrap();
    let mut nothing = 0;
    for looks in 0_u32.. {
        let left = Cell::new(looks);
        let cancelled = || left.replace(left.get().saturating_sub(1)) == 0;
        let Err(error) = apply(&at, &to, &cancelled) else { break };
        let error = error.to_string();
        let changed = fs::read(&to).unwrap() != before;
        if error.contains("nothing was changed") {
            nothing += 1;
            assert!(!changed, "{error}");
        } else {
            assert!(error.contains("the copy has a part of the diff: apply it again"), "{error}");
        }
        assert!(looks < 100);
    }
    assert!(nothing > 1);
    // Damaged when it was checked.
    let big: Vec<u8> = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
    let mut stream = StreamDiff::new(Vec::new(), Aside::temporary());
    stream.begin(8 << 20).unwrap();
    stream.put(0, &big).unwrap();
    fs::write(&at, stream.finish().unwrap()).unwrap();
    let before = vec![0; big.len()];
    fs::write(&to, &before).unwrap();
    let damage = || {
        if fs::read(&to).unwrap() != before {
            File::options().write(true).open(&at).unwrap().set_len(40).unwrap();
        }
        false
    };
    let error = apply(&at, &to, &damage).unwrap_err().to_string();
    assert!(error.contains("changed meanwhile") && !error.contains("nothing"), "{error}");
}

#[test]
fn an_output_with_a_name_from_the_beginning_replaces_nothing_either() {
    let dir = tempfile::tempdir().unwrap();
    let (path, part) = (dir.path().join("out"), dir.path().join("out.part"));
    fs::write(&part, "another's").unwrap();
    assert!(Output::named(path.clone()).err().unwrap().message.contains("out.part exists already"));
    assert_eq!(fs::read(&part).unwrap(), b"another's");
    fs::remove_file(&part).unwrap();

    let output = Output::named(path.clone()).unwrap();
    assert!(part.exists());
    fs::write(&path, "came meanwhile").unwrap();
    assert!(output.complete().is_err());
    assert!(fs::read(&path).unwrap() == b"came meanwhile" && !part.exists());
    fs::remove_file(&path).unwrap();

    let output = Output::named(path.clone()).unwrap();
    std::io::Write::write_all(&mut output.file().unwrap(), b"all").unwrap();
    let before = fs::metadata(&part).unwrap();
    output.complete().unwrap();
    assert!(fs::read(&path).unwrap() == b"all" && !part.exists());
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&before), 1);
}
