//! The user data of what is in the ring, from which its completion is recognized: 8 bits are its kind; the last 16 are the
//! tag. For an engine's operation, 16 bits are its key and 24 its call; a line's has the line in
//! the place of the tag.

use super::calls::Call;
use super::completer::Key;

pub const KIND_COMMAND: u64 = 0;
pub const KIND_OPERATION: u64 = 1 << 56;
pub const KIND_WAKE: u64 = 2 << 56;
pub const KIND_CANCEL: u64 = 3 << 56;
pub const KIND_LISTEN: u64 = 4 << 56;
pub const KIND_LIST: u64 = 5 << 56;
pub const KIND_MOVE: u64 = 6 << 56;
pub const KIND_REGISTRATION: u64 = 7 << 56;
pub const KIND_LINE: u64 = 8 << 56;
const KIND_MASK: u64 = !0 << 56;
const KEY_SHIFT: u32 = 40;
const CALL_SHIFT: u32 = 16;
const CALL_MASK: u64 = (1 << 24) - 1;

/// Of an engine's operation.
#[inline]
pub const fn operation(tag: u16, call: Call, key: Key) -> u64 {
    KIND_OPERATION | (key as u64) << KEY_SHIFT | (call as u64) << CALL_SHIFT | tag as u64
}

/// Of a line's operation.
#[inline]
pub const fn line(line: u16, key: Key) -> u64 {
    KIND_LINE | (key as u64) << KEY_SHIFT | line as u64
}

#[inline]
pub const fn kind_of(user_data: u64) -> u64 {
    user_data & KIND_MASK
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the last 16 bits")]
pub const fn tag_of(user_data: u64) -> u16 {
    user_data as u16
}

#[inline]
pub const fn call_of(user_data: u64) -> Call {
    (user_data >> CALL_SHIFT & CALL_MASK) as Call
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "16 bits")]
pub const fn key_of(user_data: u64) -> Key {
    (user_data >> KEY_SHIFT) as Key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_recognized_by_all_of_its_numbers() {
        for (tag, call, key) in [(0, 0, 0), (4095, (1 << 24) - 1, u16::MAX), (7, 4096, 3)] {
            let name = operation(tag, call, key);
            assert_eq!(kind_of(name), KIND_OPERATION);
            assert_eq!((tag_of(name), call_of(name), key_of(name)), (tag, call, key));
        }
    }
}
