//! The numbers that Rust and TypeScript exchange about requests: in a queue's shared memory (`queue/layout.rs` has its
//! arrays), in traces and in changes. They are described here only: `scripts/wire.mjs` writes `ts/wire.ts` from the
//! constants of this file.

use ublk_core::queue::{Flags, Op};

/// Operation: fill the buffer from the disk.
pub const OP_READ: u8 = 0;
/// Operation: put the buffer on the disk.
pub const OP_WRITE: u8 = 1;
/// Operation: make every completed write durable.
pub const OP_FLUSH: u8 = 2;
/// Operation: the range's content is no longer needed.
pub const OP_DISCARD: u8 = 3;
/// Operation: the range must read back as zeroes.
pub const OP_WRITE_ZEROES: u8 = 4;
/// Operation, in traces only: one that the disk never announced.
pub const OP_OTHER: u8 = 5;

/// Flag: a write that must be durable before it is finished.
pub const FLAG_FUA: u8 = 1;
/// Flag: zeroes must not free space.
pub const FLAG_NO_UNMAP: u8 = 2;
/// Flag: a file system's own structures, not a file's data.
pub const FLAG_META: u8 = 4;
/// Flag: do not retry after an error.
pub const FLAG_FAIL_FAST: u8 = 8;
/// Flag: memory is swapped in or out.
pub const FLAG_SWAP: u8 = 16;

/// `nextBatch` and `poll`: the queue has ended.
pub const BATCH_ENDED: i32 = -1;
/// `nextBatch`: the thread's event loop has something to do.
pub const BATCH_EVENTS: i32 = -2;

/// Field of a trace record: when the request was answered, in milliseconds since 1970.
pub const TRACE_TIME: usize = 0;
/// Field of a trace record: the queue's number.
pub const TRACE_QUEUE: usize = 1;
/// Field of a trace record: the tag.
pub const TRACE_TAG: usize = 2;
/// Field of a trace record: the operation.
pub const TRACE_OP: usize = 3;
/// Field of a trace record: the flags.
pub const TRACE_FLAGS: usize = 4;
/// Field of a trace record: where on the disk, in bytes.
pub const TRACE_OFFSET: usize = 5;
/// Field of a trace record: how much, in bytes.
pub const TRACE_LENGTH: usize = 6;
/// Field of a trace record: bytes done, or a negative error number.
pub const TRACE_RESULT: usize = 7;
/// Field of a trace record: microseconds in service.
pub const TRACE_LATENCY: usize = 8;
/// Field of a trace record: the rules of a disk with faults that were applied, by bits.
pub const TRACE_FAULTS: usize = 9;
/// How many fields a trace record has.
pub const TRACE_FIELDS: usize = 10;

/// Fields of a cell of a disk to which something was done: its number.
pub const HEAT_CELL: usize = 0;
/// Bytes that were read.
pub const HEAT_READ: usize = 1;
/// Bytes that were written, or are zeroes now.
pub const HEAT_WRITTEN: usize = 2;
/// Requests to which rules of a disk with faults were applied.
pub const HEAT_FAULTS: usize = 3;
/// How many numbers a cell has.
pub const HEAT_FIELDS: usize = 4;

/// Field of a change: the operation.
pub const CHANGE_OP: usize = 0;
/// Field of a change: the flags.
pub const CHANGE_FLAGS: usize = 1;
/// Field of a change: from where on, in bytes.
pub const CHANGE_OFFSET: usize = 2;
/// Field of a change: how much, in bytes.
pub const CHANGE_LENGTH: usize = 3;
/// How many fields a change has.
pub const CHANGE_FIELDS: usize = 4;

/// The number of an operation.
pub fn op(op: Op) -> u8 {
    match op {
        Op::Read => OP_READ,
        Op::Write => OP_WRITE,
        Op::Flush => OP_FLUSH,
        Op::Discard => OP_DISCARD,
        Op::WriteZeroes => OP_WRITE_ZEROES,
        _ => OP_OTHER,
    }
}

/// The flags of a request as a number.
pub fn flags(flags: Flags) -> u8 {
    let fail_fast = Flags::FAIL_FAST_DEVICE | Flags::FAIL_FAST_TRANSPORT | Flags::FAIL_FAST_DRIVER;
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    bit(flags.has(Flags::FUA), FLAG_FUA)
        | bit(flags.has(Flags::NO_UNMAP), FLAG_NO_UNMAP)
        | bit(flags.has(Flags::META), FLAG_META)
        | bit(flags.has_any(fail_fast), FLAG_FAIL_FAST)
        | bit(flags.has(Flags::SWAP), FLAG_SWAP)
}
