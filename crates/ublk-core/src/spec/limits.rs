//! The ranges and defaults of the options. `scripts/wire.mjs` copies these constants to `ts/limits.ts`, so that an error,
//! the help and the documents of the package name the same numbers.

use crate::abi::{SECTOR, sys};

/// The largest number of a device: the driver has 2^20 minors (`UBLK_MINORS`).
pub const MAX_ID: u32 = 1_048_575;
/// The most hardware queues: the driver's encoding has 12 bits for their numbers (`UBLK_QID_BITS`).
pub const MAX_QUEUES: u32 = 4096;
/// Hardware queues, if nothing else is asked for.
pub const DEFAULT_QUEUES: u32 = 1;
/// The most requests in flight on a queue (`UBLK_MAX_QUEUE_DEPTH`).
pub const MAX_DEPTH: u32 = 4096;
/// Requests in flight on each queue, if nothing else is asked for.
pub const DEFAULT_DEPTH: u32 = 128;
/// The possible logical block sizes, in bytes.
pub const BLOCK_SIZES: [u32; 4] = [512, 1024, 2048, 4096];
/// The largest physical block size, in bytes.
pub const MAX_PHYSICAL_BLOCK_SIZE: u32 = 268_435_456;
/// The physical block size, if nothing else is asked for.
pub const DEFAULT_PHYSICAL_BLOCK_SIZE: u32 = 4096;
/// The largest request is a multiple of this many bytes, and not below it.
pub const MIN_MAX_IO: u32 = 4096;
/// The largest possible value for the largest request, in bytes (`UBLK_IO_BUF_BITS`).
pub const MAX_MAX_IO: u32 = 33_554_432;
/// The largest request in bytes, if nothing else is asked for.
pub const DEFAULT_MAX_IO: u32 = 524_288;
/// The largest discard granularity, in bytes.
pub const MAX_DISCARD_GRANULARITY: u32 = 1_073_741_824;
/// The largest discard, in bytes: the driver counts its sectors in 32 bits.
pub const MAX_DISCARD: u64 = 2_199_023_255_040;
/// The most threads that can serve a queue.
pub const MAX_THREADS_PER_QUEUE: u32 = 64;
// Less than the scheduler's time slice: another thread that waits for this processor would otherwise be delayed again and
// again.
/// The longest time for which a queue may busy-poll, in microseconds.
pub const MAX_POLL: u32 = 1000;

const _: () = assert!(MAX_QUEUES == 1 << sys::UBLK_QID_BITS);
const _: () = assert!(MAX_DEPTH == sys::UBLK_MAX_QUEUE_DEPTH);
const _: () = assert!(MAX_MAX_IO == 1 << sys::UBLK_IO_BUF_BITS);
const _: () = assert!(MAX_DISCARD == u32::MAX as u64 * SECTOR);
