/** What a worker's module exports by default. */
import { type BackendFactory, type DiskBackend, defineBackend, UblkDevice, worker } from 'ublk-ts'

interface Options {
  size: number
}
const read = (): void => {}

export default defineBackend(({ size }: Options, { queue }) => ({ size: size + queue, read }))
export const promised = defineBackend(async ({ size }: Options) => ({
  size,
  read: async ({ offset }, into) => void into.fill(offset),
}))
export const told = defineBackend<Options>(({ size }) => ({ size, read }))
export const bare: BackendFactory<void> = defineBackend(() => ({ size: '1M', read }))
export const strict = defineBackend((): DiskBackend => ({ size: '1M', read, flush: read }))
export const batches = defineBackend(({ size }: Options) => ({
  size,
  operations: ['write', 'flush'],
  process: batch => void batch.result.fill(-5, 0, batch.count),
}))

const backend = worker(new URL('./factories.js', import.meta.url), { size: 4096 } satisfies Options)
await UblkDevice.create({ backend, queues: 2, recovery: 'reissue', stuckTimeout: 0 })
