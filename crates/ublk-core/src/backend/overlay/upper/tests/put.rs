//! Layers that are put into their base: every state that a kill or a power failure may leave, of the upper, the layers and the
//! base.

use super::crash::numbers;
use super::volatile::Volatile;
use crate::backend::map_file::Stamp;
use crate::backend::overlay::upper::format::{Header, OF_DEVICE, SECTOR, State};
use crate::backend::overlay::upper::medium::Medium;
use crate::backend::overlay::upper::put::{Copying, Put};
use crate::backend::overlay::upper::store::Store;
use crate::backend::overlay::upper::{Parent, Shape, Uuid};
use std::io;
use std::ops::Range;
use std::path::Path;

const SECTORS: u64 = 64;
const INTO: u64 = 77;
const OLD: &str = "the old base";
const NEW: &str = "the new base";

/// What the disk has in a sector, as a number. 0: zeroes.
type Content = Vec<u64>;

fn stamp(boot: u8) -> Stamp {
    Stamp { boot: [boot; 36], place: 7 }
}

fn bytes(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(64)
}

fn value(medium: &Volatile, at: u64) -> u64 {
    let mut found = [0; 512];
    medium.read(&mut found, at).unwrap();
    assert!(found.chunks(8).all(|part| part == &found[..8]), "torn");
    u64::from_le_bytes(found[..8].try_into().unwrap())
}

/// The order in which it is done.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Right,
    /// The base changes before the upper says so.
    RecordLate,
    /// The upper says that the base has all before it has.
    SwitchEarly,
    /// The base is not synced.
    NoSync,
}

struct Tree {
    top: Store<Volatile>,
    layers: Vec<Store<Volatile>>,
    base: Volatile,
    /// What the base has at first, and in the end.
    before: Content,
    after: Content,
    /// What the disk has.
    disk: Content,
}

fn write(store: &Store<Volatile>, sectors: Range<u64>, fill: u64, content: &mut [&mut Content]) {
    for sector in sectors.clone() {
        store.medium().write(&bytes(fill), store.layout().data() + sector * SECTOR).unwrap();
        content.iter_mut().for_each(|content| content[sector as usize] = fill);
    }
    let range = sectors.start * SECTOR..sectors.end * SECTOR;
    store.note(std::slice::from_ref(&range)).unwrap();
}

impl Tree {
    fn new(order: Order) -> Self {
        let base = Volatile::new();
        base.cut(0, SECTORS * SECTOR).unwrap();
        let before: Content = (0..SECTORS).map(|sector| 1000 + sector).collect();
        for (sector, value) in (0..).zip(&before) {
            base.write(&bytes(*value), sector * SECTOR).unwrap();
        }
        base.sync().unwrap();
        let made = |uuid: u8, parent: Option<u8>| {
            let parent = parent.map(|uuid| Parent { uuid: Uuid([uuid; 16]), name: format!("layer{uuid}") });
            let shape =
                Shape { size: SECTORS * SECTOR, block_size: 512, base: OLD, parent, ..Shape::default() };
            let header = Header::new(&shape, Uuid([uuid; 16]), stamp(1)).unwrap();
            Store::create(Volatile::new(), header).unwrap()
        };
        let (one, two, top) = (made(1, None), made(2, Some(1)), made(3, Some(2)));
        let (mut after, mut disk) = (before.clone(), before.clone());
        {
            let mut both: [&mut Content; 2] = [&mut after, &mut disk];
            write(&one, 0..9, 1, &mut both);
            write(&one, 20..24, 2, &mut both);
            one.seal().unwrap();
            write(&two, 4..12, 3, &mut both);
            write(&two, 24..33, 0, &mut both);
            two.save().unwrap(); // a client's flush
            write(&top, 2..6, 4, &mut [&mut disk]);
            write(&top, 40..44, 5, &mut [&mut disk]);
            top.save().unwrap();
        }
        if order == Order::NoSync {
            base.skip_syncs(0..0);
        }
        let tree = Self { top, layers: vec![one, two], base, before, after, disk };
        for medium in [tree.layers[1].medium(), &tree.base] {
            medium.dies_with(tree.top.medium());
        }
        tree
    }

    fn commit(&self, order: Order) -> io::Result<()> {
        let layers: Vec<_> = self.layers.iter().collect();
        let mut pace = |_, _| Ok(());
        let mut copying = Copying {
            base: &self.base,
            size: SECTORS * SECTOR,
            most: 8 * SECTOR,
            pace: &mut pace,
            room: &|_| Ok(()),
        };
        if order == Order::RecordLate {
            copying.copy(&layers)?;
        }
        self.layers[1].seal()?;
        if order == Order::SwitchEarly {
            self.top.begin_put(INTO)?;
            self.top.end_put(NEW.into())?;
            return copying.copy(&layers);
        }
        let stamp = || self.base.sync();
        Put { copying, into: INTO, stamp: &stamp }.below(&self.top, &layers, &|| Ok(NEW.into()))
    }

    /// The same with the upper, which nobody serves.
    fn commit_whole(&self, order: Order) -> io::Result<()> {
        let layers: Vec<_> = self.layers.iter().chain([&self.top]).collect();
        let mut pace = |_, _| Ok(());
        let mut copying = Copying {
            base: &self.base,
            size: SECTORS * SECTOR,
            most: 8 * SECTOR,
            pace: &mut pace,
            room: &|_| Ok(()),
        };
        if order == Order::RecordLate {
            copying.copy(&layers)?;
        }
        let stamp = || self.base.sync();
        Put { copying, into: INTO, stamp: &stamp }.whole(&layers, &|| Ok(NEW.into()))
    }

    /// What the next server finds.
    fn found(&self, power: bool, mut choose: impl FnMut(usize) -> usize) -> Self {
        let mut left = |medium: &Volatile| match power {
            true => medium.after_power_failure(&mut choose),
            false => medium.after_kill(),
        };
        let boot = 1 + u8::from(power);
        let mut opened = |store: &Store<Volatile>, read_only: bool| {
            let medium = left(store.medium());
            let mut page = [0; 4096];
            medium.read(&mut page, 0).unwrap();
            let header = Header::of(Path::new("upper"), &page).unwrap();
            if read_only {
                Store::open_read_only(medium, header, stamp(boot))
            } else {
                Store::open(medium, header, stamp(boot))
            }
            .unwrap()
        };
        let layers = vec![opened(&self.layers[0], true), opened(&self.layers[1], false)];
        let top = opened(&self.top, false);
        let base = left(&self.base);
        let (before, after, disk) = (self.before.clone(), self.after.clone(), self.disk.clone());
        let tree = Self { top, layers, base, before, after, disk };
        for medium in [tree.layers[0].medium(), tree.layers[1].medium(), &tree.base] {
            medium.dies_with(tree.top.medium());
        }
        tree
    }

    fn base_content(&self) -> Content {
        (0..SECTORS).map(|sector| value(&self.base, sector * SECTOR)).collect()
    }

    /// Whether the disk has what it had.
    fn check(&self) {
        let (header, base) = (self.top.header(), self.base_content());
        if header.base == OLD && header.into == 0 {
            assert_eq!(base, self.before, "the base was changed before the record");
        }
        assert_eq!(header.base == NEW, header.below().is_none());
        let mut content = base;
        let below = if header.below().is_some() { &self.layers[..] } else { &[] };
        for store in below.iter().chain([&self.top]) {
            let mut found = |range: Range<u64>| {
                for sector in range.start / SECTOR..range.end / SECTOR {
                    content[sector as usize] = value(store.medium(), store.layout().data() + sector * SECTOR);
                }
            };
            store.present(&mut found).unwrap();
        }
        assert_eq!(content, self.disk, "the disk has changed");
    }
}

/// Ends with each crash at each moment, and goes on from there. How many states it has seen, and after how many of them the
/// layers were not needed.
fn at_each_moment(order: Order) -> (usize, usize) {
    let (mut states, mut over) = (0, 0);
    for moment in 0.. {
        let tree = Tree::new(order);
        tree.top.medium().dies_after(moment);
        let ended = tree.commit(order).is_ok();
        for seed in 0..24_u64 {
            // Of the old and the new, all of one or any.
            let mut random = numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let next = tree.found(seed > 0, |versions| match seed {
                1 => 0,
                2 => versions - 1,
                _ => random(versions),
            });
            next.check();
            states += 1;
            over += usize::from(next.top.header().below().is_none());
            assert!(!ended || next.top.header().base == NEW, "it was durable");
            if next.top.header().below().is_none() {
                assert_eq!(next.base_content(), next.after);
                continue;
            }
            // Once more, from its beginning: interrupted again, and then to its end.
            next.top.medium().dies_after(usize::try_from(seed).unwrap() * 3);
            let _ = next.commit(order);
            let last = next.found(seed % 2 == 0, |versions| versions - 1);
            last.check();
            if last.top.header().below().is_some() {
                last.commit(order).unwrap();
            }
            let last = last.found(true, |_| 0);
            last.check();
            assert_eq!(last.base_content(), last.after);
        }
        if ended {
            break;
        }
    }
    (states, over)
}

#[test]
fn at_each_moment_of_a_commit_a_crash_leaves_the_disk_as_it_was_and_it_goes_on() {
    let (states, over) = at_each_moment(Order::Right);
    assert!(states > 600 && over > 20, "{states} states, {over} at the end");
}

/// The test above finds the mistakes that it is for.
#[test]
#[should_panic(expected = "the base was changed before the record")]
fn a_base_that_changes_before_the_upper_says_so_is_found() {
    at_each_moment(Order::RecordLate);
}

#[test]
#[should_panic(expected = "the disk has changed")]
fn an_upper_that_forgets_the_layers_before_the_base_has_their_data_is_found() {
    at_each_moment(Order::SwitchEarly);
}

#[test]
#[should_panic(expected = "the disk has changed")]
fn a_base_that_is_not_synced_before_the_layers_are_forgotten_is_found() {
    at_each_moment(Order::NoSync);
}

/// The same for a disk without a server, whose upper is removed when that has ended.
fn at_each_moment_of_a_whole(order: Order) -> (usize, usize) {
    let (mut states, mut begun) = (0, 0);
    for moment in 0.. {
        let tree = Tree::new(order);
        tree.layers[1].seal().unwrap();
        tree.top.medium().dies_after(moment);
        let ended = tree.commit_whole(order).is_ok();
        for seed in 0..24_u64 {
            let mut random = numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let next = tree.found(seed > 0, |versions| if seed == 1 { 0 } else { random(versions) });
            states += 1;
            if ended {
                assert_eq!(next.base_content(), next.disk, "the base lacks what is removed");
                continue;
            }
            if next.top.header().state == State::Committing {
                begun += 1;
            } else {
                assert_eq!(next.base_content(), next.before, "the base was changed before the record");
            }
            next.top.medium().dies_after(usize::try_from(seed).unwrap() * 3);
            let _ = next.commit_whole(order);
            let last = next.found(seed % 2 == 0, |versions| versions - 1);
            last.commit_whole(order).unwrap();
            let last = last.found(true, |_| 0);
            assert_eq!(last.base_content(), last.disk, "the base lacks what is removed");
        }
        if ended {
            break;
        }
    }
    (states, begun)
}

#[test]
fn at_each_moment_of_a_commit_without_a_server_a_crash_loses_nothing_and_it_goes_on() {
    let (states, begun) = at_each_moment_of_a_whole(Order::Right);
    assert!(states > 600 && begun > 200, "{states} states, {begun} of which had begun");
}

#[test]
#[should_panic(expected = "the base was changed before the record")]
fn a_base_that_changes_before_its_upper_without_a_server_says_so_is_found() {
    at_each_moment_of_a_whole(Order::RecordLate);
}

#[test]
#[should_panic(expected = "the base lacks what is removed")]
fn a_base_that_is_not_synced_before_its_upper_is_removed_is_found() {
    at_each_moment_of_a_whole(Order::NoSync);
}

#[test]
fn the_identity_of_the_base_is_the_old_or_the_new_one() {
    for moment in 0.. {
        let tree = Tree::new(Order::Right);
        tree.top.begin_put(INTO).unwrap();
        tree.top.medium().dies_after(moment);
        let ended = tree.top.end_put(NEW.into()).is_ok();
        for seed in 1..40 {
            let next = tree.found(true, numbers(seed));
            let header = next.top.header();
            assert!([(OLD, INTO), (NEW, 0)].contains(&(&*header.base, header.into)), "{header:?}");
            assert!(!ended || header.base == NEW);
        }
        if ended {
            break;
        }
    }
}

/// A disk that is in use writes to the same file system.
#[test]
fn a_commit_asks_for_room_only_where_the_base_has_holes_and_ends_before_it_fills_them() {
    let tree = Tree::new(Order::Right);
    let layers: Vec<_> = tree.layers.iter().collect();
    let asked = std::cell::Cell::new(0);
    let copy = |holes_from: u64| {
        tree.base.cut(holes_from * SECTOR, SECTORS * SECTOR).unwrap();
        let room = |bytes: u64| {
            asked.set(asked.get() + bytes);
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        };
        let (size, most, mut pace) = (SECTORS * SECTOR, 8 * SECTOR, |_, _| Ok(()));
        Copying { base: &tree.base, size, most, pace: &mut pace, room: &room }.copy(&layers)
    };
    // What the layers have from there on is zero.
    copy(24).unwrap();
    assert_eq!(asked.get(), 0);
    assert_eq!(tree.base_content()[..24], tree.after[..24]);
    assert_eq!(tree.base_content()[24..], [0; SECTORS as usize - 24]);
    let full = copy(8).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(asked.get(), 8 * SECTOR);
    assert_eq!(tree.base_content()[..8], tree.after[..8]);
    assert_eq!(tree.base_content()[8..], [0; SECTORS as usize - 8]);
}

/// A copy of the base may take its place when it is known what it has, and another file never does before that.
#[test]
fn the_base_of_a_commit_that_has_ended_is_found_by_its_content_and_else_by_its_number() {
    let tree = Tree::new(Order::Right);
    let is_it = |file: Option<u64>, name: &str| tree.top.header().is_put_into(file, name);
    tree.top.begin_put(INTO).unwrap();
    assert!(is_it(Some(INTO), "any") && !is_it(Some(INTO + 1), "any") && !is_it(None, "any"));
    let layers: Vec<_> = tree.layers.iter().collect();
    let mut pace = |_, copied| match copied {
        0 => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::Interrupted)),
    };
    let (base, size, room) = (&tree.base, SECTORS * SECTOR, &|_| Ok(()));
    let copying = Copying { base, size, most: 8 * SECTOR, pace: &mut pace, room };
    let put = Put { copying, into: INTO, stamp: &|| tree.base.sync() };
    assert!(put.below(&tree.top, &layers, &|| Ok("partly".into())).is_err());
    for power in [false, true] {
        let left = tree.found(power, numbers(1)).top.header();
        assert!(left.is_put_into(Some(INTO), "partly") && left.is_put_into(Some(INTO + 1), "partly"));
        assert!(!left.is_put_into(Some(INTO), "any") && !left.is_put_into(None, "partly"));
        // A block device says nothing of its content.
        assert!(!left.is_put_into(Some(INTO | OF_DEVICE), "partly"));
    }
    // From here on it changes again.
    tree.top.begin_put(INTO).unwrap();
    assert!(is_it(Some(INTO), "any") && !is_it(Some(INTO + 1), "partly"));
}

#[test]
fn parts_of_any_length_have_each_sector_of_its_own_layer() {
    for most in [1, 511, 1000, 5000] {
        let tree = Tree::new(Order::Right);
        let layers: Vec<_> = tree.layers.iter().collect();
        let mut pace = |_, _| Ok(());
        let (base, size, room) = (&tree.base, SECTORS * SECTOR, &|_| Ok(()));
        Copying { base, size, most, pace: &mut pace, room }.copy(&layers).unwrap();
        assert_eq!(tree.base_content(), tree.after, "parts of {most} bytes");
    }
}
