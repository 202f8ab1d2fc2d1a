//! What disks in memory have in common.

use super::{Discard, Properties};
use crate::abi::page_size;

/// One call frees at most this: a queue must not be away for long.
const MOST_FREED: u64 = 1 << 28;

/// The properties of a disk of `size` bytes whose pages a discard frees.
pub fn properties(size: u64) -> Properties {
    #[expect(clippy::cast_possible_truncation, reason = "a few KiB")]
    let granularity = page_size() as u32;
    let discard = Discard { granularity, alignment: 0, max: MOST_FREED, max_write_zeroes: MOST_FREED };
    Properties { discard: Some(discard), ..Properties::new(size) }
}
