import { type Batch, type DiskBackend, defineBackend, type JsBackend, Op } from 'ublk-ts'

/** A disk in memory that all workers share, in every form a backend can have. */
export interface Options {
  bytes: SharedArrayBuffer
  form: 'sync' | 'async' | 'batch' | 'async batch'
}

export default defineBackend(({ bytes, form }: Options) => memoryDisk(new Uint8Array(bytes), form))

export function memoryDisk(bytes: Uint8Array, form: Options['form']): JsBackend {
  switch (form) {
    case 'sync':
      return friendly(bytes)
    case 'async':
      return slow(friendly(bytes))
    case 'batch':
      return { size: bytes.length, operations: ['write', 'discard'], process: batch => serve(bytes, batch) }
    case 'async batch':
      return { size: bytes.length, process: async batch => await serveLater(bytes, batch) }
  }
}

function friendly(bytes: Uint8Array): DiskBackend {
  return {
    size: bytes.length,
    read: ({ offset, length }, into) => into.set(bytes.subarray(offset, offset + length)),
    write: ({ offset }, from) => bytes.set(from, offset),
    flush: () => {},
    discard: ({ offset, length }) => void bytes.fill(0, offset, offset + length),
    writeZeroes: ({ offset, length }) => void bytes.fill(0, offset, offset + length),
  }
}

/** Gives each request a turn of the event loop or two, so that they finish in another order. */
function slow(disk: DiskBackend): DiskBackend {
  const turns = async (offset: number): Promise<void> => {
    for (let turn = (offset >> 12) % 3; turn > 0; turn--) await new Promise(resolve => setImmediate(resolve))
  }
  return {
    size: disk.size,
    read: async (request, into) => {
      await turns(request.offset)
      disk.read(request, into)
    },
    write: async (request, from) => {
      await turns(request.offset)
      disk.write?.(request, from)
    },
  }
}

function serve(bytes: Uint8Array, batch: Batch): void {
  for (let i = 0; i < batch.count; i++) one(bytes, batch, i)
}

function one(bytes: Uint8Array, batch: Batch, i: number): void {
  const offset = batch.offset[i] ?? 0
  const end = offset + (batch.length[i] ?? 0)
  if (batch.op[i] === Op.read) batch.data(i).set(bytes.subarray(offset, end))
  else if (batch.op[i] === Op.write) bytes.set(batch.data(i), offset)
  else bytes.fill(0, offset, end)
}

/** Finishes the batch's last requests first, and one of them only with the batch. */
async function serveLater(bytes: Uint8Array, batch: Batch): Promise<void> {
  for (let i = batch.count - 1; i > 0; i--) {
    if (i % 2 === 0) await null
    const length = batch.length[i] ?? 0
    one(bytes, batch, i)
    batch.complete(i, length)
  }
  one(bytes, batch, 0)
}
