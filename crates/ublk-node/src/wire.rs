//! Requests as JavaScript reads them from shared memory and traces.

use ublk_core::queue::Flags;

/// The flags' bits: FUA 1, no unmap 2, metadata 4, fail fast 8, swap 16.
pub fn flags(flags: Flags) -> u8 {
    let fail_fast = Flags::FAIL_FAST_DEVICE | Flags::FAIL_FAST_TRANSPORT | Flags::FAIL_FAST_DRIVER;
    u8::from(flags.has(Flags::FUA))
        | u8::from(flags.has(Flags::NO_UNMAP)) << 1
        | u8::from(flags.has(Flags::META)) << 2
        | u8::from(flags.has_any(fail_fast)) << 3
        | u8::from(flags.has(Flags::SWAP)) << 4
}
