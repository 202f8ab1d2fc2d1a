//! The cells of equal size into which a map of a disk divides it, for people.

use crate::error::{Error, Result};

/// The most cells of a disk.
pub const MOST_CELLS: u64 = 4096;
/// Bytes: cells are multiples of this.
const BLOCK: u64 = 4096;

/// The bytes of a cell of a disk of this size.
pub const fn cell_of(size: u64) -> u64 {
    let cell = size.div_ceil(MOST_CELLS).next_multiple_of(BLOCK);
    if cell == 0 { BLOCK } else { cell }
}

/// Whether a map of a disk of this size may have cells of so many bytes.
pub fn check_cell(size: u64, cell: u64) -> Result<()> {
    if cell == 0 || size.div_ceil(cell) > MOST_CELLS {
        return Err(Error::invalid(format!("a map of {size} bytes cannot have cells of {cell} bytes")).hint(
            format!("it has at most {MOST_CELLS}: use {} bytes or more", size.div_ceil(MOST_CELLS).max(1)),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_disk_of_any_size_has_at_most_so_many_cells_of_whole_blocks() {
        for (size, cell) in
            [(0, 4096), (512, 4096), (16 << 20, 4096), ((16 << 20) + 1, 8192), (1 << 40, 1 << 28)]
        {
            assert_eq!(cell_of(size), cell, "{size}");
            assert!(size.div_ceil(cell) <= MOST_CELLS);
        }
        assert!(u64::MAX.div_ceil(cell_of(u64::MAX)) <= MOST_CELLS);
    }

    #[test]
    fn a_map_of_more_cells_or_of_none_is_refused() {
        for size in [0, 512, 16 << 20, 1 << 50, u64::MAX] {
            check_cell(size, cell_of(size)).unwrap();
            check_cell(size, size.max(1)).unwrap();
            assert!(check_cell(size, 0).is_err());
        }
        let error = check_cell(1 << 40, 1).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().contains("use 268435456 bytes or more"), "{error}");
        assert!(check_cell(1 << 40, (1 << 28) - 1).is_err());
        check_cell(1 << 40, 1 << 28).unwrap();
    }
}
