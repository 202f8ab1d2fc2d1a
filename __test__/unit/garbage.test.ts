import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import test from 'ava'
import type { UblkDevice } from 'ublk-ts'

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

/** As the native part, each device keeps the functions that it calls until it is garbage itself. */
const functions = new Map<number, unknown[]>()
const freed = new FinalizationRegistry<number>(id => functions.delete(id))
let last = 0

class FakeDevice {
  static async create(_spec: unknown, _cancel: unknown, ...kept: unknown[]): Promise<FakeDevice> {
    return new FakeDevice(kept)
  }

  readonly id: number
  constructor(kept: unknown[]) {
    this.id = ++last
    functions.set(this.id, kept)
    freed.register(this, this.id)
  }
  async info(): Promise<object> {
    return { id: this.id, path: `/dev/ublkb${this.id}`, queues: 1, flags: [] }
  }
  async start(): Promise<void> {
    if (this.id % 3 === 0) throw new Error('every third device fails')
  }
  async delete(): Promise<void> {}
  keep(): void {}
  failFetches(): void {}
  takeChanges(): number[] {
    return []
  }
  stats(): object[] {
    return []
  }
}

const bindings = new URL('../../binding/', import.meta.url)
const binding = readdirSync(bindings).find(name => name.endsWith('.node')) ?? ''
const native = createRequire(import.meta.url)(fileURLToPath(new URL(binding, bindings))) as {
  Device: unknown
}
native.Device = FakeDevice
// Loaded afterwards, so that it gets these devices.
const { lazy, nullDisk, UblkDevice: Device } = await import('../../dist/index.js')

/** Makes and deletes disks, and returns how many are still held when nobody needs them. */
async function held(make: () => Promise<UblkDevice>): Promise<number> {
  for (let round = 0; round < 30; round++) {
    const disk = await make().catch(() => undefined)
    disk?.on('error', () => disk.path) // The listener refers to the disk.
    await disk?.delete({ force: true })
  }
  for (let round = 0; round < 5; round++) {
    await setImmediate()
    collectGarbage()
  }
  return functions.size
}

test.serial(
  'a deleted device is garbage when nobody holds it, and so is one that could not be started',
  async t => {
    t.true((await held(() => Device.create({ backend: nullDisk('1G') }))) <= 2)
    t.is(last, 30)
    const fetch = (): Uint8Array => new Uint8Array()
    const backend = lazy({ size: '1M', cache: '/tmp/none', fetch })
    t.true((await held(() => Device.create({ backend, observe: () => {} }))) <= 2)
  },
)
