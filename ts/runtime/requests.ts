/** Operations and flags of requests, as the native part writes them and as users of this package see them. */

import type { Operation } from '../operation.js'
import {
  FLAG_FAIL_FAST,
  FLAG_FUA,
  FLAG_META,
  FLAG_SWAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
} from '../wire.js'

const named: Operation[] = []
named[OP_READ] = 'read'
named[OP_WRITE] = 'write'
named[OP_FLUSH] = 'flush'
named[OP_DISCARD] = 'discard'
named[OP_WRITE_ZEROES] = 'writeZeroes'

/** The operations by their numbers. */
export const OPERATIONS: readonly Operation[] = named

/** The flags that the kernel sends with a request. */
export interface RequestFlags {
  /** Whether the write must be durable when it finishes (forced unit access). */
  readonly fua: boolean
  /** Whether it concerns a file system's own structures, such as inodes and the journal, not the data of a file. */
  readonly meta: boolean
  /** Whether its sender wants no retries after an error: it has another copy, or does not need the data. */
  readonly failFast: boolean
  /** Whether memory is swapped in or out. */
  readonly swap: boolean
}

/** Reads the flags of a request. */
export function flagsOf(flags: number): RequestFlags {
  return {
    fua: (flags & FLAG_FUA) !== 0,
    meta: (flags & FLAG_META) !== 0,
    failFast: (flags & FLAG_FAIL_FAST) !== 0,
    swap: (flags & FLAG_SWAP) !== 0,
  }
}
