import type { DiskBackend } from 'ublk-ts'

/** Disks in memory that do what no disk may do, and how that is recognized. */
export interface WrongDisk {
  readonly make: (bytes: Uint8Array) => DiskBackend
  readonly kinds: readonly ('stale' | 'unwritten' | 'disorder')[]
}

const BLOCK = 512
const later = (milliseconds: number): Promise<void> =>
  new Promise(resolve => setTimeout(resolve, milliseconds))

function right(bytes: Uint8Array): DiskBackend {
  return {
    size: bytes.length,
    read: ({ offset, length }, into) => into.set(bytes.subarray(offset, offset + length)),
    write: ({ offset }, from) => bytes.set(from, offset),
  }
}

export const WRONG: Readonly<Record<string, WrongDisk>> = {
  'answers writes before it applies them': {
    kinds: ['stale', 'disorder'],
    make: bytes => ({
      ...right(bytes),
      write: ({ offset }, from) => {
        const data = from.slice()
        setTimeout(() => bytes.set(data, offset), 5)
      },
    }),
  },
  'has a cache of single blocks that longer writes do not update': {
    kinds: ['stale', 'disorder'],
    make: bytes => {
      const cache = new Map<number, Uint8Array>()
      return {
        ...right(bytes),
        read: ({ offset, length }, into) => {
          if (length !== BLOCK) return into.set(bytes.subarray(offset, offset + length))
          if (!cache.has(offset)) cache.set(offset, bytes.slice(offset, offset + length))
          into.set(cache.get(offset) ?? [])
        },
        write: ({ offset, length }, from) => {
          bytes.set(from, offset)
          if (length === BLOCK) cache.delete(offset)
        },
      }
    },
  },
  'writes half a block after the other': {
    kinds: ['unwritten'],
    make: bytes => ({
      ...right(bytes),
      write: async ({ offset, length }, from) => {
        const half = length - BLOCK / 2
        bytes.set(from.subarray(0, half), offset)
        await later(1)
        bytes.set(from.subarray(half), offset + half)
      },
    }),
  },
  'reads early and answers late': {
    // What it answers is right if nothing is written meanwhile, and then is still what was there during the read. A second
    // client that asks for the same gets the same answer, although it asks later.
    kinds: ['stale', 'disorder'],
    make: bytes => {
      const answers = new Map<number, Promise<Uint8Array>>()
      return {
        ...right(bytes),
        read: async ({ offset, length }, into) => {
          const key = offset * 64 + length / BLOCK
          const answer = answers.get(key) ?? later(2).then(() => data)
          const data = bytes.slice(offset, offset + length)
          answers.set(key, answer)
          into.set(await answer)
          answers.delete(key)
        },
      }
    },
  },
  'loses a write now and then': {
    kinds: ['stale', 'disorder'],
    make: bytes => {
      let writes = 0
      return {
        ...right(bytes),
        write: ({ offset }, from) => {
          if (++writes % 50 !== 0) bytes.set(from, offset)
        },
      }
    },
  },
}
