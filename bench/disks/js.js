// A disk written in JavaScript, in a process of its own: prints its path, and removes it at SIGINT.
// usage: js.js js-sync|js-batch|js-async BYTES DEPTH [--transport WAY]

import { once } from 'node:events'
import { UblkDevice, worker } from 'ublk-ts'

const [name, bytes, depth, , transport = 'auto'] = process.argv.slice(2)
const size = Number(bytes)

const backends = {
  'js-sync': () => worker(new URL('./sync.js', import.meta.url), { size }),
  'js-batch': () => worker(new URL('./batch.js', import.meta.url), { size }),
  'js-async': asyncDisk,
}

/** In this thread, with promises. */
function asyncDisk() {
  const disk = new Uint8Array(size)
  return {
    size,
    async read({ offset, length }, into) {
      into.set(disk.subarray(offset, offset + length))
    },
    async write({ offset }, from) {
      disk.set(from, offset)
    },
  }
}

const disk = await UblkDevice.create({ backend: backends[name](), depth: Number(depth), transport })
process.stdout.write(`${disk.path}\n`)
await once(process, 'SIGINT')
await disk.delete()
