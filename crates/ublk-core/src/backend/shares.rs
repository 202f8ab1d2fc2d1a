//! How much of each cell of a disk something holds for, such as whether it is fetched: for a map that people look at.

use crate::cells::MOST_CELLS;

/// The most places of a cell that are looked at.
const MOST_LOOKS: u64 = 64;

/// A number for each cell of `cell` bytes, of which the last may be smaller: 0 none of it, 255 all, and in between a part. `holds` is
/// asked about the units of `unit` bytes, by number: of a cell with more than 64, about 64 at equal distances. So the time that this takes
/// is bounded, whatever the size of the disk: of one that has more than [`MOST_CELLS`], these are the first ones.
pub fn shares(size: u64, cell: u64, unit: u64, holds: impl Fn(u64) -> bool) -> Vec<u8> {
    if cell == 0 {
        return Vec::new();
    }
    let unit = unit.max(1);
    let share = |number: u64| {
        let start = number * cell;
        let end = start.saturating_add(cell).min(size);
        let (first, last) = (start / unit, (end - 1) / unit);
        let units = last - first + 1;
        let looks = units.min(MOST_LOOKS);
        let found = (0..looks).filter(|look| holds(first + look * units / looks)).count() as u64;
        byte(found, looks)
    };
    (0..size.div_ceil(cell).min(MOST_CELLS)).map(share).collect()
}

/// Only none is 0, and only all is 255.
fn byte(found: u64, looks: u64) -> u8 {
    if found == looks {
        return 255;
    }
    let part = found * 255 / looks;
    u8::try_from(part.max(u64::from(found > 0)).min(254)).unwrap_or(254)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_and_all_are_told_from_any_part() {
        // Cells of four units; the last has two and a half.
        let size = 4096 * 4 * 3 + 4096 * 2 + 512;
        let with = |units: &'static [u64]| shares(size, 4096 * 4, 4096, move |unit| units.contains(&unit));
        assert_eq!(with(&[]), [0, 0, 0, 0]);
        assert_eq!(with(&[0, 1, 2, 3, 5, 12, 13, 14]), [255, 63, 0, 255]);
        assert_eq!(with(&[12, 14]), [0, 0, 0, 170]);
        assert_eq!(shares(1 << 20, 1 << 20, 512, |unit| unit == 0), [3]);
        assert_eq!(shares(1 << 20, 1 << 20, 512, |unit| unit != 0), [251]);
    }

    #[test]
    fn cells_smaller_than_a_unit_have_what_the_unit_has() {
        assert_eq!(shares(4096 * 8, 4096, 4096 * 4, |unit| unit == 1), [0, 0, 0, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn the_number_of_looks_is_bounded() {
        let looks = std::cell::Cell::new(0);
        let all = shares(1 << 50, 1 << 38, 4096, |_| {
            looks.set(looks.get() + 1);
            true
        });
        assert_eq!(all, vec![255; 4096]);
        assert_eq!(looks.get(), 4096 * 64);
    }

    #[test]
    fn the_number_of_cells_is_bounded() {
        let count = |size, cell| shares(size, cell, 4096, |_| false).len();
        assert_eq!(count(1 << 30, 512), 4096);
        assert_eq!(count(1 << 30, 1 << 18), 4096);
        assert_eq!(count(1 << 30, 1 << 20), 1024);
        assert_eq!(count(1 << 20, 0), 0);
    }

    #[test]
    fn a_disk_without_bytes_has_no_cells() {
        assert!(shares(0, 4096, 4096, |_| true).is_empty());
    }
}
