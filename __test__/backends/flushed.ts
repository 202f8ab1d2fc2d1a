import { type DiskBackend, defineBackend, type JsBackend, Op } from 'ublk-ts'

/** A disk with a volatile cache: what is in it is only durable after a flush, or a forced write. */
export interface Options {
  form: 'sync' | 'async' | 'batch' | 'async batch'
  /** What the disk has, and what would be left of it after a power cut. */
  bytes: SharedArrayBuffer
  durable: SharedArrayBuffer
}

export default defineBackend((options: Options): JsBackend => flushedDisk(options))

export function flushedDisk({ form, bytes, durable }: Options): JsBackend {
  const [now, kept] = [new Uint8Array(bytes), new Uint8Array(durable)]
  const size = now.length
  const flush = (): void => kept.set(now)
  const force = (fua: boolean): void => {
    if (fua) flush()
  }
  const methods: DiskBackend = {
    size,
    read: ({ offset, length }, into) => into.set(now.subarray(offset, offset + length)),
    write: ({ offset, fua }, from) => {
      now.set(from, offset)
      force(fua)
    },
    writeZeroes: ({ offset, length, fua }) => {
      now.fill(0, offset, offset + length)
      force(fua)
    },
    flush,
  }
  if (form === 'sync') return methods
  if (form === 'async') {
    const { read, write, writeZeroes } = methods
    return {
      size,
      read,
      write: async (request, from) => write?.(request, from),
      writeZeroes: async request => writeZeroes?.(request),
      flush: async () => flush(),
    }
  }
  const one = (op: number, offset: number, length: number, fua: boolean, data: () => Uint8Array): void => {
    if (op === Op.read) data().set(now.subarray(offset, offset + length))
    else if (op === Op.write) now.set(data(), offset)
    else if (op === Op.writeZeroes) now.fill(0, offset, offset + length)
    if (op === Op.flush || fua) flush()
  }
  const operations = ['write', 'flush', 'writeZeroes'] as const
  const process: Extract<JsBackend, { process: unknown }>['process'] = batch => {
    for (let i = 0; i < batch.count; i++) {
      one(
        batch.op[i] ?? 0,
        batch.offset[i] ?? 0,
        batch.length[i] ?? 0,
        ((batch.flags[i] ?? 0) & 1) !== 0,
        () => batch.data(i),
      )
    }
  }
  return { size, operations, process: form === 'batch' ? process : async batch => process(batch) }
}
