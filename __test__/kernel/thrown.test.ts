import { randomBytes } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { type Backend, lazy, memory, UblkDevice, type UblkError, worker } from 'ublk-ts'
import { FORMS, GOOD, type Options, oddDisk, SIZE } from '../backends/odd.js'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { Odd, SEED, share } from '../support/odd.js'
import { result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

// What user code throws, returns or answers with: UBLK_TS_ODD sets the number of values, UBLK_TS_SEED chooses others.

leaveNoServerBehind(test)

test.before(() => {
  // Each listener that fails causes one, and Node prints them.
  process.removeAllListeners('warning')
})

const MODULE = new URL('../backends/odd.js', import.meta.url)
let tried = 0

test.after.always('the number of values', t => t.log(`${tried} values were tried, seed ${SEED}`))

/** Sends requests to the random half of a disk, until `told` reports enough. When it returns, all were answered. */
async function press(path: string, requests: number, told: () => number, rw = 'randrw'): Promise<void> {
  const script = `timeout 600 fio --name=odd --filename="$1" --size=${GOOD} --rw=$3 --bs=4k --direct=1 \\
    --ioengine=libaio --iodepth=16 --number_ios="$2" --io_size=100g --continue_on_error=all --randrepeat=0 \\
    --norandommap --output-format=json --output=/dev/null`
  for (let before = -1; told() < requests; ) {
    const made = told()
    if (made === before) throw new Error(`${path} is asked for nothing more`)
    before = made
    const { status, stderr } = await result(shell(script, path, String(requests - before), rw))
    if (status === 124) throw new Error(`fio was not answered: ${stderr}`)
  }
}

/** Flushes, discards and zeroes, as far as the disk supports them. */
async function pressOthers(path: string, rounds: number): Promise<void> {
  await result(
    shell(
      `for i in $(seq $2); do
         blkdiscard -f -o 0 -l 65536 "$1"; blkdiscard -f -z -o 0 -l 65536 "$1"; dd if=/dev/zero of="$1" bs=4k count=1 conv=fsync
       done 2>/dev/null || true`,
      path,
      String(rounds),
    ),
  )
}

/** Checks that data written to the correct half is read back. */
async function goesOn(path: string): Promise<void> {
  writeFileSync('/tmp/good', randomBytes(2 ** 20))
  const args = `bs=64k count=16 status=none`
  await sh(
    `dd if=/tmp/good of="$1" ${args} seek=$2 oflag=direct; dd if="$1" ${args} skip=$2 iflag=direct | cmp - /tmp/good`,
    path,
    String(GOOD / 65536),
  )
}

/** Tests a disk whose listeners throw as well. */
async function trouble(
  t: ExecutionContext,
  backend: Backend,
  told: Int32Array,
  requests: number,
): Promise<void> {
  const odd = new Odd(SEED)
  await using disk = await UblkDevice.create({
    backend,
    requestTimeout: 200,
    depth: 32,
    partitionScan: false,
  })
  let [events, listened] = [0, 0]
  disk.on('error', error => {
    if (typeof (error as UblkError).message !== 'string') t.fail('an event without a message')
    if (events++ % 8 !== 0) return undefined
    listened++
    if (odd.chance.often(0.5)) throw odd.value()
    return odd.promise() as undefined
  })
  disk.on('exit', ({ reason }) => t.fail(reason))
  const traced = disk.trace(() => {
    throw odd.value()
  })
  const trace = traced.then(
    () => 'ended',
    () => 'thrown',
  )
  await press(disk.path, requests, () => Atomics.load(told, 0))
  await pressOthers(disk.path, 5)
  await goesOn(disk.path)
  await until(() => disk.stats()[0]?.inFlight === 0, 'every request is answered')
  t.is(await trace, 'thrown')
  const served = Atomics.load(told, 0)
  t.true(served >= requests, `${served} of ${requests}`)
  t.true(events > 0)
  tried += served + listened + 1
}

for (const form of FORMS) {
  for (const where of ['worker', 'object'] as const) {
    if (form === 'sync' && where === 'object') continue // The same as `async`.
    test.serial(
      `whatever a disk does to a request, the request is answered and the disk goes on: ${form}, ${where}`,
      async t => {
        const options = { form, seed: SEED, told: new SharedArrayBuffer(4) } satisfies Options
        const told = new Int32Array(options.told)
        const backend = where === 'worker' ? worker(MODULE, options) : oddDisk(options)
        await trouble(t, backend, told, share(150, 0.12))
      },
    )
  }
}

test.serial('whatever a disk does to a request, its detached server lives on', async t => {
  const file = '/dev/shm/odd-told'
  for (const form of FORMS) {
    writeFileSync(file, new Uint8Array(4))
    const told = (): number => readFileSync(file).readInt32LE()
    const options = JSON.stringify({ form, seed: SEED, told: file } satisfies Options).replace(' ', '\\u0020')
    const disk = await Detached.create(
      `--worker ${MODULE} --worker-options ${options} --request-timeout 0.2 --depth 32 --no-partition-scan`,
    )
    const { pid } = disk
    const requests = share(50, 0.03)
    await press(disk.path, requests, told)
    await pressOthers(disk.path, 5)
    await goesOn(disk.path)
    t.is(disk.pid, pid)
    t.true(told() >= requests, form)
    t.like(await run('delete', disk.path), { status: 0, stderr: '' })
    tried += told()
  }
  rmSync(file)
})

test.serial('whatever fetch does, the request is answered and the disk goes on', async t => {
  const odd = new Odd(SEED)
  const told = new Int32Array(1)
  const backend = lazy({
    size: SIZE,
    chunk: 4096,
    timeout: 200,
    fetch: ({ offset, length }) => {
      if (offset >= GOOD) return new Uint8Array(length)
      told[0] = (told[0] ?? 0) + 1
      if (odd.chance.often(0.3)) throw odd.value()
      return (odd.chance.often(0.5) ? odd.promise() : odd.value()) as Uint8Array
    },
  })
  await using disk = await UblkDevice.create({ backend, partitionScan: false })
  disk.on('error', () => {})
  const requests = share(150, 0.06)
  await press(disk.path, requests, () => told[0] ?? 0, 'randread')
  await goesOn(disk.path)
  t.true((told[0] ?? 0) >= requests)
  tried += told[0] ?? 0
})

test.serial('whatever an observer does, the disk goes on', async t => {
  const odd = new Odd(SEED)
  let [calls, events] = [0, 0]
  const observe = (): undefined => {
    calls++
    if (odd.chance.often(0.5)) throw odd.value()
    return odd.promise() as undefined
  }
  await using disk = await UblkDevice.create({ backend: memory(SIZE), observe, partitionScan: false })
  disk.on('error', () => events++)
  const wanted = share(50, 0.02)
  await press(disk.path, wanted, () => calls, 'randwrite')
  await goesOn(disk.path)
  t.true(events > 0)
  tried += calls
})

test.serial('whatever resize, close and their listeners do, the disk goes on and is deleted', async t => {
  const odd = new Odd(SEED)
  const anything = (): undefined => {
    tried++
    if (odd.chance.often(0.4)) throw odd.value()
    return (odd.chance.often(0.05) ? odd.value() : odd.promise()) as undefined
  }
  const bytes = new Uint8Array(SIZE)
  for (let round = share(2, 0.0003); round > 0; round--) {
    const disk = await UblkDevice.create({
      backend: {
        size: SIZE,
        read: ({ offset, length }, into) => into.set(bytes.subarray(offset, offset + length)),
        write: ({ offset }, from) => bytes.set(from, offset),
        resize: () => {
          tried++
          if (odd.chance.often(0.7)) throw odd.value()
        },
        close: anything,
      },
      partitionScan: false,
    })
    for (const event of ['stopped', 'deleted', 'error'] as const) disk.on(event, anything)
    for (let i = 0; i < 40; i++) {
      await disk.resize(SIZE / (1 + (i % 2))).catch((error: UblkError) => t.is(error.kind, 'backend'))
    }
    await disk.resize(SIZE).catch(() => {})
    if (disk.size === SIZE) await goesOn(disk.path)
    await disk.stop({ force: true })
    await disk.delete({ force: true })
  }
})

test.serial(
  'whatever a module, its factory or its options throw, creation fails with a UblkError',
  async t => {
    const odd = new Odd(SEED)
    for (let i = share(4, 0.002); i > 0; i--) {
      const module = `import { Odd } from '${new URL('../support/odd.js', import.meta.url)}'
      const odd = new Odd(${SEED + i})
      export default () => { ${i % 2 === 0 ? 'throw odd.value()' : 'return odd.value()'} }`
      const backend =
        i % 4 === 3
          ? worker(MODULE, () => {
              throw odd.value()
            })
          : worker(`data:text/javascript,${encodeURIComponent(module)}`)
      const error = await t.throwsAsync<UblkError>(UblkDevice.create({ backend }), { name: 'UblkError' })
      t.true(['backend', 'invalid'].includes(error?.kind ?? ''), error?.message)
      tried++
    }
  },
)

test.serial('a worker that talks and closes where only its backend may harms nobody', async t => {
  const module = `import { parentPort } from 'node:worker_threads'
    export default () => {
      for (const message of [null, 5, { type: 'ended' }, { type: 'loaded' }, [], 'failed']) parentPort.postMessage(message)
      parentPort.close()
      let hang = false
      return { size: ${SIZE}, read: async ({ offset }) => { if (offset >= ${GOOD}) await new Promise(() => {}) } }
    }`
  const backend = worker(`data:text/javascript,${encodeURIComponent(module)}`)
  const disk = await UblkDevice.create({ backend, partitionScan: false })
  const read = (skip: number) =>
    result(shell(`dd if="$1" of=/dev/null bs=4k count=1 skip=${skip} iflag=direct`, disk.path))
  t.is((await read(0)).status, 0)
  const hanging = read(GOOD / 4096)
  await until(() => disk.stats()[0]?.inFlight === 1, 'a request that is never answered')
  await disk.delete({ force: true })
  t.not((await hanging).status, 0)
})
