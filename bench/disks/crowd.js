// A native disk in memory on shared threads, among idle ones, in one process: prints its path, and removes all at SIGINT.
// usage: crowd.js NEIGHBOURS BYTES DEPTH

import { once } from 'node:events'
import { memory, nullDisk, UblkDevice } from 'ublk-ts'

const [neighbours, size, depth] = process.argv.slice(2).map(Number)
const create = backend => UblkDevice.create({ backend, depth, threads: 'shared', timeout: 60_000 })

const idle = await Promise.all(Array.from({ length: neighbours }, () => create(nullDisk('1G'))))
const busy = await create(memory(size))
process.stdout.write(`${busy.path}\n`)
await once(process, 'SIGINT')
await Promise.all([busy, ...idle].map(disk => disk.delete()))
