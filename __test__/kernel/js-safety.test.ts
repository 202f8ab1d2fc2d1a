import { once } from 'node:events'
import { closeSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { MessageChannel, Worker } from 'node:worker_threads'
import test from 'ava'
import { type BatchBackend, type JsBackend, UblkDevice, type UblkError, worker } from 'ublk-ts'
import { memoryDisk } from '../backends/memory.js'
import { BAD, type Options } from '../backends/misbehaving.js'
import { errorsOf, leaveNothingBehind } from '../support/devices.js'
import { result, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const MODULE = new URL('../backends/misbehaving.js', import.meta.url)
const SIZE = 4 * 2 ** 20

const bad = (how: Options['how'], times = 1): Options => {
  const left = new SharedArrayBuffer(4)
  new Int32Array(left)[0] = times
  return { bytes: new SharedArrayBuffer(SIZE), left, how }
}

/** Reads the block that the backend is bad at; what dd has to say about it. */
const read = async (path: string): Promise<string> => {
  const { stderr } = await result(
    shell(`dd if="$1" of=/dev/null bs=4k count=1 skip=${BAD / 4096} iflag=direct`, path),
  )
  return stderr
}

/** The next event of that name; `events.once` would give up at an `error`, which comes first here. */
const next = async (disk: UblkDevice, name: 'exit' | 'recovered'): Promise<void> =>
  await new Promise(resolve => disk.once(name, () => resolve()))

/** Fails if a process stays in an uninterruptible wait; for moments, the kernel's own threads are in one. */
const nobodyIsStuck = async (): Promise<void> =>
  await until(async () => (await sh("ps -eo stat,comm | awk '$1 ~ /^D/'")) === '', 'nobody is in D state')

test('what a method throws is the error of its request, and the disk goes on', async t => {
  await using disk = await UblkDevice.create({ backend: worker(MODULE, bad('throw')) })
  const told = once(disk, 'error') as Promise<[UblkError]>
  t.regex(await read(disk.path), /No space left on device/)
  const [error] = await told
  t.regex(error.message, new RegExp(`^misbehaving.js: read of 4096 bytes at ${BAD} failed: no room$`))
  t.notRegex(await read(disk.path), /error/)
})

test('a rejected promise and a wrong return value are I/O errors, in this thread too', async t => {
  const answers: unknown[] = [Promise.reject(new Error('later')), 42, Promise.resolve(42)]
  const backend = { size: SIZE, read: () => answers.shift() as undefined }
  await using disk = await UblkDevice.create({ backend })
  // The partition scan has had some of the answers.
  const errors: string[] = []
  disk.on('error', ({ message }) => errors.push(message))
  while (answers.length > 0) t.regex(await read(disk.path), /Input\/output error/)
  t.notRegex(await read(disk.path), /error/)
  t.true(errors.length > 0)
})

test('a request that takes too long is answered for its backend, which cannot spoil another', async t => {
  let release = (): void => {}
  let hang = false
  const backend = {
    size: SIZE,
    async read(_: unknown, into: Uint8Array) {
      if (hang) {
        hang = false
        await new Promise<void>(resolve => {
          release = resolve
        })
        into.fill(0xff)
      } else into.fill(1)
    },
  }
  await using disk = await UblkDevice.create({ backend, requestTimeout: 300, depth: 1 })
  disk.on('error', () => {})
  await read(disk.path)
  hang = true
  t.regex(await read(disk.path), /timed out/i)
  release()
  t.is(
    await sh('dd if="$1" bs=4k count=1 iflag=direct status=none | tr -d "\\001" | wc -c', disk.path),
    '0\n',
  )
})

test('requests with buffers of their own carry the right data', async t => {
  const backend = memoryDisk(new Uint8Array(new SharedArrayBuffer(MEBIBYTES * 2 ** 20)), 'async')
  await using disk = await UblkDevice.create({ backend, requestTimeout: 60_000 })
  const errors = errorsOf(disk)
  await verify(disk.path)
  t.deepEqual(errors, [])
})

for (const form of ['methods', 'batches'] as const) {
  test(`a device whose requests are never finished is deleted by force: ${form}`, async t => {
    let hang = false
    const never = new Promise<void>(() => {})
    const backend: JsBackend =
      form === 'methods'
        ? { size: SIZE, read: async (_, into) => (hang ? await never : void into.fill(1)) }
        : { size: SIZE, process: async () => (hang ? await never : undefined) }
    const disk = await UblkDevice.create({ backend })
    disk.on('error', error => t.fail(error.message))
    await read(disk.path)
    hang = true
    const reading = read(disk.path)
    await until(() => (disk.stats()[0]?.inFlight ?? 0) > 0, 'the read has come')
    await disk.delete({ force: true })
    t.regex(await reading, /error|No such device/)
    await nobodyIsStuck()
  })
}

test('a batch that goes on after its time spoils no other request', async t => {
  let hang = false
  let release = (): void => {}
  const late: Uint8Array[] = []
  const backend: BatchBackend = {
    size: SIZE,
    async process(batch) {
      for (let i = 0; i < batch.count; i++) batch.data(i).fill(1)
      if (!hang) return
      hang = false
      for (let i = 0; i < batch.count; i++) late.push(batch.data(i))
      await new Promise<void>(resolve => {
        release = resolve
      })
    },
  }
  await using disk = await UblkDevice.create({ backend, requestTimeout: 300, depth: 1 })
  disk.on('error', () => {})
  await read(disk.path)
  hang = true
  t.regex(await read(disk.path), /timed out/i)
  const scribble = setInterval(() => {
    for (const data of late) data.fill(0xff)
  })
  for (let round = 0; round < 20; round++)
    t.is(
      await sh('dd if="$1" bs=4k count=1 iflag=direct status=none | tr -d "\\001" | wc -c', disk.path),
      '0\n',
    )
  release()
  clearInterval(scribble)
})

for (const how of ['loop', 'exit', 'exhaust'] as const) {
  test(`a worker that ends by "${how}" takes its disk away, and its users get errors`, async t => {
    const disk = await UblkDevice.create({ backend: worker(MODULE, bad(how)), stuckTimeout: 1000 })
    disk.on('error', () => {})
    const exit = next(disk, 'exit')
    t.regex(await read(disk.path), /error|No such device/)
    await exit
    await nobodyIsStuck()
    await disk.delete({ force: true })
  })

  test(`after a worker that ended by "${how}" another goes on, and the disk's users notice nothing`, async t => {
    const options = bad(how)
    await using disk = await UblkDevice.create({
      backend: worker(MODULE, options),
      stuckTimeout: 1000,
      recovery: 'reissue',
    })
    new Uint8Array(options.bytes).fill(5)
    disk.on('error', () => {})
    const recovered = next(disk, 'recovered')
    const script = 'dd if="$1" bs=4k iflag=direct status=none | tr -d "\\005" | wc -c'
    t.is(await sh(script, disk.path), '0\n')
    await recovered
    t.is(new Int32Array(options.left)[0], 0)
    await nobodyIsStuck()
  })
}

test('a process that exits takes its JavaScript disks with it', async t => {
  const program = `import { UblkDevice, worker } from 'ublk-ts'
    const options = { bytes: new SharedArrayBuffer(${SIZE}), left: new SharedArrayBuffer(4), how: 'throw' }
    const inline = await UblkDevice.create({ backend: { size: ${SIZE}, read() {} } })
    const other = await UblkDevice.create({ backend: worker('${MODULE}', options) })
    process.stdout.write(inline.path + ' ' + other.path)
    process.exit(7)`
  const { status, stdout } = await result(shell('node --input-type=module -e "$1"', program))
  t.is(status, 7)
  t.regex(stdout, /ublkb\d+ .*ublkb\d+$/)
})

test('a module that is no backend is one clear error, and leaves nothing', async t => {
  const missing = worker(new URL('./no-such-module.js', import.meta.url))
  await t.throwsAsync(UblkDevice.create({ backend: missing }), {
    message: /cannot be loaded.*no-such-module/,
  })
  const none = worker('data:text/javascript,export default 5')
  await t.throwsAsync(UblkDevice.create({ backend: none }), { message: /its default export is no function/ })
  const empty = worker('data:text/javascript,export default () => ({ size: 4096 })')
  await t.throwsAsync(UblkDevice.create({ backend: empty }), { message: /cannot read/ })
})

test('a batch that throws fails its requests, and one that answers twice or too late harms nobody', async t => {
  let wrong: 'throws' | 'twice' | 'late' | undefined
  const late: (() => void)[] = []
  const backend: BatchBackend = {
    size: SIZE,
    async process(batch) {
      const how = wrong
      wrong = undefined
      if (how === 'throws') throw Object.assign(new Error('not this batch'), { code: 'ENOSPC' })
      for (let i = 0; i < batch.count; i++) batch.data(i).fill(3)
      if (how === 'twice') for (const _ of 'ab') batch.complete(0, batch.length[0] ?? 0)
      if (how === 'late') late.push(() => batch.complete(0, -5))
    },
  }
  // The kernel's own look at the disk may come later than the disk, and would be what goes wrong.
  await using disk = await UblkDevice.create({ backend, partitionScan: false })
  const errors: string[] = []
  disk.on('error', ({ message }) => errors.push(message))
  const rightly = 'dd if="$1" bs=4k count=1 iflag=direct status=none | tr -d "\\003" | wc -c'
  wrong = 'throws'
  t.regex(await read(disk.path), /No space left on device/)
  wrong = 'twice'
  t.is(await sh(rightly, disk.path), '0\n')
  wrong = 'late'
  t.is(await sh(rightly, disk.path), '0\n')
  for (const complete of late) complete()
  t.is(await sh(rightly, disk.path), '0\n')
  t.deepEqual(
    errors.map(message => message.replace(/^.*?(not this batch|twice)/, '$1')),
    ['not this batch', 'twice', 'twice'],
  )
})

test('the main thread reads its own disk synchronously, when workers serve it', async t => {
  const options = bad('throw', 0)
  new Uint8Array(options.bytes).fill(9)
  await using disk = await UblkDevice.create({ backend: worker(MODULE, options) })
  const file = openSync(disk.path, 'r')
  const data = new Uint8Array(2 ** 20)
  t.is(readSync(file, data), data.length)
  closeSync(file)
  t.true(data.every(byte => byte === 9))
})

test('a process that has the disk open that its event loop serves is warned', async t => {
  await using disk = await UblkDevice.create({
    backend: { size: SIZE, read: (_, into) => void into.fill(1) },
  })
  const told = once(disk, 'error') as Promise<[UblkError]>
  const file = await open(disk.path, 'r')
  try {
    let warned = false
    void told.then(() => {
      warned = true
    })
    // It looks once a second, when there are requests.
    await until(async () => {
      await read(disk.path)
      return warned
    }, 'the warning')
    t.regex((await told)[0].message, /its own event loop serves/)
  } finally {
    await file.close()
  }
})

for (const how of ['inline', 'worker'] as const) {
  test(`a thread that is terminated takes its disk with it: ${how}`, async t => {
    const program = `import { UblkDevice, worker } from 'ublk-ts'
      import { parentPort } from 'node:worker_threads'
      const options = { bytes: new SharedArrayBuffer(${SIZE}), left: new SharedArrayBuffer(4), how: 'throw' }
      const backend = '${how}' === 'inline' ? { size: ${SIZE}, read() {} } : worker('${MODULE}', options)
      const disk = await UblkDevice.create({ backend })
      parentPort.postMessage(disk.id)`
    // Where the package is found.
    const file = fileURLToPath(new URL(`../terminated-${how}.mjs`, import.meta.url))
    writeFileSync(file, program)
    const thread = new Worker(file)
    const [id] = (await once(thread, 'message')) as [number]
    t.is((await UblkDevice.open(id)).path, `/dev/ublkb${id}`)
    await thread.terminate()
    await t.throwsAsync(UblkDevice.open(id), { message: /there is no ublk device/ })
    await nobodyIsStuck()
    rmSync(file)
  })
}

test('a worker gets messages while it waits for requests, and sleeps otherwise', async t => {
  const module = `export default ({ port }) => {
      let byte = 1
      port.on('message', next => { byte = next; port.postMessage('seen') })
      return { size: ${SIZE}, read(_, into) { into.fill(byte) } }
    }`
  const { port1, port2 } = new MessageChannel()
  const backend = worker(`data:text/javascript,${encodeURIComponent(module)}`, () => ({ port: port2 }))
  await using disk = await UblkDevice.create({ backend })
  const count = 'dd if="$1" bs=4k count=1 iflag=direct status=none | tr -d "\\\\$2" | wc -c'
  t.is(await sh(count, disk.path, '001'), '0\n')
  port1.postMessage(2)
  await once(port1, 'message')
  t.is(await sh(count, disk.path, '002'), '0\n')
  const turns = disk.stats()[0]?.turns ?? 0
  await sleep(1000)
  t.true((disk.stats()[0]?.turns ?? 0) - turns <= 1, 'an idle worker does not turn')
  port1.close()
})

test('a view that a backend kept changes between its turns, never while JavaScript runs', async t => {
  const kept = new Set<Uint8Array>()
  const backend = {
    size: SIZE,
    read: () => {},
    write: async (_: unknown, from: Uint8Array) => void kept.add(from),
  }
  await using disk = await UblkDevice.create({ backend, depth: 4 })
  let [looked, changed, moved] = [0, 0, 0]
  const last = new Map<Uint8Array, Buffer>()
  const look = setInterval(() => {
    const before = [...kept].map(view => Buffer.from(view))
    const until = performance.now() + 10
    while (performance.now() < until) {
      let at = 0
      for (const view of kept) if (!before[at++]?.equals(view)) changed++
    }
    let at = 0
    for (const view of kept) {
      const copy = before[at++] as Buffer
      if (last.has(view) && !last.get(view)?.equals(copy)) moved++
      last.set(view, copy)
    }
    looked++
  }, 15)
  await sh(
    'fio --name=w --filename="$1" --direct=1 --rw=randwrite --bs=4k --iodepth=4 --ioengine=libaio --runtime=2 --time_based --size=4m',
    disk.path,
  )
  clearInterval(look)
  t.true(looked > 10 && moved > 0, `${looked} looks, ${moved} of them found the data of another request`)
  t.is(changed, 0)
})
