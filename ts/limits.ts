// Written by scripts/wire.mjs from crates/ublk-core/src/spec/limits.rs: change that, and run the script.

/** The largest number of a device: the driver has 2^20 minors (`UBLK_MINORS`). */
export const MAX_ID = 1_048_575

/** The most hardware queues: the driver's encoding has 12 bits for their numbers (`UBLK_QID_BITS`). */
export const MAX_QUEUES = 4096

/** Hardware queues, if nothing else is asked for. */
export const DEFAULT_QUEUES = 1

/** The most requests in flight on a queue (`UBLK_MAX_QUEUE_DEPTH`). */
export const MAX_DEPTH = 4096

/** Requests in flight on each queue, if nothing else is asked for. */
export const DEFAULT_DEPTH = 128

/** The possible logical block sizes, in bytes. */
export const BLOCK_SIZES: readonly number[] = [512, 1024, 2048, 4096]

/** The largest physical block size, in bytes. */
export const MAX_PHYSICAL_BLOCK_SIZE = 268_435_456

/** The physical block size, if nothing else is asked for. */
export const DEFAULT_PHYSICAL_BLOCK_SIZE = 4096

/** The largest request is a multiple of this many bytes, and not below it. */
export const MIN_MAX_IO = 4096

/** The largest possible value for the largest request, in bytes (`UBLK_IO_BUF_BITS`). */
export const MAX_MAX_IO = 33_554_432

/** The largest request in bytes, if nothing else is asked for. */
export const DEFAULT_MAX_IO = 524_288

/** The largest discard granularity, in bytes. */
export const MAX_DISCARD_GRANULARITY = 1_073_741_824

/** The largest discard, in bytes: the driver counts its sectors in 32 bits. */
export const MAX_DISCARD = 2_199_023_255_040

/** The most threads that can serve a queue. */
export const MAX_THREADS_PER_QUEUE = 64

/** The longest time for which a queue may busy-poll, in microseconds. */
export const MAX_POLL = 1000
