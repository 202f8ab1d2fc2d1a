// Written by scripts/wire.mjs from crates/ublk-node/src/wire.rs: change that, and run the script.

/** Operation: fill the buffer from the disk. */
export const OP_READ = 0

/** Operation: put the buffer on the disk. */
export const OP_WRITE = 1

/** Operation: make every completed write durable. */
export const OP_FLUSH = 2

/** Operation: the range's content is no longer needed. */
export const OP_DISCARD = 3

/** Operation: the range must read back as zeroes. */
export const OP_WRITE_ZEROES = 4

/** Operation, in traces only: one that the disk never announced. */
export const OP_OTHER = 5

/** Flag: a write that must be durable before it is finished. */
export const FLAG_FUA = 1

/** Flag: zeroes must not free space. */
export const FLAG_NO_UNMAP = 2

/** Flag: a file system's own structures, not a file's data. */
export const FLAG_META = 4

/** Flag: do not retry after an error. */
export const FLAG_FAIL_FAST = 8

/** Flag: memory is swapped in or out. */
export const FLAG_SWAP = 16

/** `nextBatch` and `poll`: the queue has ended. */
export const BATCH_ENDED = -1

/** `nextBatch`: the thread's event loop has something to do. */
export const BATCH_EVENTS = -2

/** Field of a trace record: when the request was answered, in milliseconds since 1970. */
export const TRACE_TIME = 0

/** Field of a trace record: the queue's number. */
export const TRACE_QUEUE = 1

/** Field of a trace record: the tag. */
export const TRACE_TAG = 2

/** Field of a trace record: the operation. */
export const TRACE_OP = 3

/** Field of a trace record: the flags. */
export const TRACE_FLAGS = 4

/** Field of a trace record: where on the disk, in bytes. */
export const TRACE_OFFSET = 5

/** Field of a trace record: how much, in bytes. */
export const TRACE_LENGTH = 6

/** Field of a trace record: bytes done, or a negative error number. */
export const TRACE_RESULT = 7

/** Field of a trace record: microseconds in service. */
export const TRACE_LATENCY = 8

/** Field of a trace record: the rules of a disk with faults that were applied, by bits. */
export const TRACE_FAULTS = 9

/** How many fields a trace record has. */
export const TRACE_FIELDS = 10

/** Fields of a cell of a disk to which something was done: its number. */
export const HEAT_CELL = 0

/** Bytes that were read. */
export const HEAT_READ = 1

/** Bytes that were written, or are zeroes now. */
export const HEAT_WRITTEN = 2

/** Requests to which rules of a disk with faults were applied. */
export const HEAT_FAULTS = 3

/** How many numbers a cell has. */
export const HEAT_FIELDS = 4

/** Field of a change: the operation. */
export const CHANGE_OP = 0

/** Field of a change: the flags. */
export const CHANGE_FLAGS = 1

/** Field of a change: from where on, in bytes. */
export const CHANGE_OFFSET = 2

/** Field of a change: how much, in bytes. */
export const CHANGE_LENGTH = 3

/** How many fields a change has. */
export const CHANGE_FIELDS = 4
