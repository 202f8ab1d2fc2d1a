import { concat, file, lazy, memory, nullDisk, slice, stripe, UblkDevice, worker } from 'ublk-ts'

const backend = memory('1M')

// error: Argument of type 'number' is not assignable to parameter of type 'string | URL'
worker(5)

// error: Expected 1-2 arguments, but got 3
worker('file:///disk.js', {}, { queues: 2 })

// error: 'dierct' does not exist in type 'FileOptions'. Did you mean to write 'direct'?
file('disk.img', { dierct: true })

// error: Argument of type 'undefined' is not assignable to parameter of type 'Size'
nullDisk(undefined)

// error: Property 'backend' is missing
await UblkDevice.create({ queues: 2 })

// error: 'queue' does not exist in type 'CreateOptions'. Did you mean to write 'queues'?
await UblkDevice.create({ backend, queue: 2 })

// error: Type '"retry"' is not assignable to type '"fail" | "reissue" | "requeue"'
await UblkDevice.create({ backend, recovery: 'retry' })

// error: Type '"fast"' is not assignable to type '"auto" | Transport'
await UblkDevice.create({ backend, transport: 'fast' })

// error: Type 'string' is not assignable to type 'number'
await UblkDevice.create({ backend, depth: '64' })

// error: Type 'WorkerBackend' is not assignable to type 'StackableBackend'
concat([worker('file:///disk.js')])

// error: Argument of type 'LazyBackend' is not assignable to parameter of type 'StackableBackend'
slice(lazy({ size: '1M', fetch: () => new Uint8Array(0) }))

// error: 'chunks' does not exist in type 'StripeOptions'. Did you mean to write 'chunk'?
stripe([backend], { chunks: '64K' })
