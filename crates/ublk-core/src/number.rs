//! Conversions of numbers that lose nothing, and sums that do not overflow.

const _: () = assert!(usize::BITS == 64, "positions on a disk have to fit in a number of bytes in memory");

/// A number of bytes, or a position, on a disk as one in memory.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "both have 64 bits, as is asserted above")]
pub const fn to_usize(number: u64) -> usize {
    number as usize
}

/// A constant with fewer bits. Only for constants: one that does not fit ends the compilation.
#[expect(clippy::cast_possible_truncation, reason = "it is checked")]
pub const fn const_u32(number: u64) -> u32 {
    assert!(number <= u32::MAX as u64);
    number as u32
}

/// A constant with fewer bits, as [`const_u32`].
#[expect(clippy::cast_possible_truncation, reason = "it is checked")]
pub const fn const_u16(number: u64) -> u16 {
    assert!(number <= u16::MAX as u64);
    number as u16
}

/// Whether the range of `length` from `offset` on ends within `size`.
#[inline]
pub const fn is_within(offset: u64, length: u64, size: u64) -> bool {
    match offset.checked_add(length) {
        Some(end) => end <= size,
        None => false,
    }
}
