/** Disks that the thread which makes the device serves. */
import { type BatchBackend, type DiskBackend, Op, UblkDevice } from 'ublk-ts'

const bytes = new Uint8Array(4096)

await UblkDevice.create({ backend: { size: '1M', read: () => {} } })
await UblkDevice.create({
  backend: {
    size: bytes.length,
    blockSize: 4096,
    limits: { chunk: '64K', optimalIo: 65536, maxSegments: 16, maxSegmentSize: '8K', segmentBoundary: 65536 },
    read: ({ offset, length }, into) => into.set(bytes.subarray(offset, offset + length)),
    write: async ({ offset, fua }, from) => bytes.set(from, fua ? offset : 0),
    flush: () => Promise.resolve(),
    discard: request => void bytes.fill(0, request.offset),
    async writeZeroes() {},
    async close() {},
  },
  requestTimeout: 1000,
})
await UblkDevice.create({ backend: { size: '1M', process: () => {} } })
await UblkDevice.create({
  backend: {
    size: '1M',
    operations: ['write', 'flush', 'discard', 'writeZeroes'],
    async process(batch) {
      for (let i = 0; i < batch.count; i++) {
        if (batch.op[i] === Op.read) batch.data(i).fill(0)
        else batch.complete(i, -5)
      }
    },
  },
})

// With state, methods and fields of its own.
class Disk implements DiskBackend {
  readonly size = '1M'
  served = 0
  read(): void {
    this.count()
  }
  count(): void {
    this.served++
  }
}
await UblkDevice.create({ backend: new Disk() })

// Without saying what it implements.
class Batches {
  size = 4096
  operations = ['write'] as const
  process(): void {}
}
const batches: BatchBackend = new Batches()
await UblkDevice.create({ backend: batches })
await UblkDevice.create({ backend: new Batches() })
