import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import type { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { type CreateOptions, file, memory, type Transport, UblkDevice, worker } from 'ublk-ts'
import { type Options, SIZE } from '../backends/odd.js'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { kernelHas } from '../support/modes.js'
import { run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNothingBehind(test)

const RUN_DIR = '/tmp/unwind'
process.env['UBLK_TS_RUN_DIR'] = RUN_DIR
const MODULE = new URL('../backends/odd.js', import.meta.url)
const given: Options = { form: 'sync', seed: 1 }
const BINDING = fileURLToPath(new URL('../../binding/index.cjs', import.meta.url))
const native = createRequire(import.meta.url)(BINDING) as {
  Device: { create: Call; prototype: Record<'info' | 'start' | 'delete' | 'recover', Call> }
}
type Call = (...given: unknown[]) => Promise<unknown>

/** Has `before` done each time that a native step is begun, until disposed of. */
function ahead(step: 'info' | 'start' | 'recover', before: (id: number) => unknown): Disposable {
  const { prototype } = native.Device
  const own = prototype[step]
  prototype[step] = async function (this: { id: number }, ...words) {
    await before(this.id)
    return await own.apply(this, words)
  }
  return {
    [Symbol.dispose]() {
      prototype[step] = own
    },
  }
}

/** The Workers of this process that have not ended. */
const workers = new Set<Worker>()
let begun = 0
process.on('worker', (worker: Worker) => {
  begun++
  workers.add(worker)
  worker.once('exit', () => workers.delete(worker))
})

async function nothingIsLeft(t: ExecutionContext): Promise<void> {
  t.deepEqual(await UblkDevice.list(), [])
  t.deepEqual(nodes(), [])
  await until(() => workers.size === 0, 'no worker is left')
  t.deepEqual(existsSync(RUN_DIR) ? readdirSync(RUN_DIR) : [], [])
}

const BACKENDS = {
  native: () => memory('4M'),
  worker: () => worker(MODULE, given),
  object: () => ({ size: SIZE, read() {}, close() {} }),
}
const KINDS = Object.keys(BACKENDS) as (keyof typeof BACKENDS)[]
const make = (kind: (typeof KINDS)[number], more: Partial<CreateOptions> = {}) =>
  UblkDevice.create({ backend: BACKENDS[kind](), partitionScan: false, record: kind !== 'object', ...more })

for (const kind of KINDS) {
  test.serial(
    `a device that another process deletes before it is started leaves nothing: ${kind}`,
    async t => {
      for (const step of ['info', 'start'] as const) {
        let done = false
        using _ = ahead(step, async id => {
          if (done) return
          done = true
          t.is((await run('delete', '--force', String(id))).status, 0)
        })
        await t.throwsAsync(make(kind), { name: 'UblkError' })
        t.true(done)
        await nothingIsLeft(t)
      }
    },
  )

  test.serial(
    `a creation that is aborted at any step rejects with the reason, and leaves nothing: ${kind}`,
    async t => {
      const reason = { odd: 'reason' }
      for (const step of ['info', 'start'] as const) {
        const control = new AbortController()
        using _ = ahead(step, () => control.abort(reason))
        const [outcome] = await Promise.allSettled([make(kind, { signal: control.signal })])
        t.is(outcome?.status === 'rejected' && outcome.reason, reason, step)
        await nothingIsLeft(t)
      }
      for (let wait = 0; wait < 60; wait += 12) {
        const [outcome] = await Promise.allSettled([make(kind, { signal: AbortSignal.timeout(wait) })])
        if (outcome?.status === 'fulfilled') await outcome.value.delete({ force: true })
        await nothingIsLeft(t)
      }
    },
  )

  if (kind === 'object') continue // It cannot be recorded in any case.
  test.serial(`a device that cannot be recorded is not made: ${kind}`, async t => {
    rmSync(RUN_DIR, { recursive: true, force: true })
    writeFileSync(RUN_DIR, '')
    await t.throwsAsync(make(kind), { name: 'UblkError' })
    rmSync(RUN_DIR)
    // That it fails is only seen when the device is there.
    const log = (id: number): string => {
      throw Object.assign(new Error(`no log for ${id}`), { message: null })
    }
    await t.throwsAsync(make(kind, { record: { log } }))
    mkdirSync(RUN_DIR, { recursive: true, mode: 0o700 })
    await nothingIsLeft(t)
  })
}

test.serial('a recovery that fails leaves the device as it was', async t => {
  const disk = await UblkDevice.create({
    backend: BACKENDS.worker(),
    recovery: 'reissue',
    partitionScan: false,
  })
  await disk.quiesce()
  await disk.release()
  for (const step of ['info', 'recover'] as const) {
    using _ = ahead(step, () => {
      throw new Error('not now')
    })
    await t.throwsAsync(UblkDevice.recover(disk.id, { backend: BACKENDS.worker() }), { message: /not now/ })
    t.is((await (await UblkDevice.open(disk.id)).info()).state, 'quiesced')
    await until(() => workers.size === 0, 'no worker is left')
  }
  await using again = await UblkDevice.recover(disk.id, { backend: BACKENDS.worker() })
  t.is((await again.info()).state, 'live')
})

/** Has `before` done at the first native step after a device went live in this process. */
function afterLive(before: () => unknown): Disposable {
  let times = 0
  return ahead('info', () => {
    if (++times === 2) before()
  })
}

const IN_FILE = new URL('../backends/in-file.js', import.meta.url)
const WAYS = [
  ['fail', 'per-io', 'fail-io'],
  ['fail', 'batch', 'fail-io'],
  ['requeue', 'batch', 'quiesced'],
  ['reissue', 'per-io', 'quiesced'],
] as const satisfies [CreateOptions['recovery'], Transport, string][]

for (const [recovery, transport, state] of WAYS) {
  const testHere = kernelHas({ transport, copy: 'copy' }) ? test.serial : test.serial.skip
  testHere(
    `a take-over that fails when the disk is live again leaves it to the next server: ${recovery}, ${transport}`,
    async t => {
      const [path, go] = ['/tmp/unwind.disk', '/tmp/unwind.go']
      rmSync(go, { force: true })
      writeFileSync(path, Buffer.alloc(SIZE, 7))
      const backend = `file('${path}')`
      const first = await Server.program(`
        import { file, UblkDevice } from 'ublk-ts'
        const disk = await UblkDevice.create({
          backend: ${backend}, recovery: '${recovery}', transport: '${transport}', copy: 'copy', discard: false, partitionScan: false,
        })
        console.log(disk.path)`)
      const { id } = first
      const user = shell(
        'exec 3<"$1"; echo open; until [ -e "$2" ]; do sleep 0.1; done; dd bs=4k count=1 iflag=direct status=none <&3',
        first.path,
        go,
      )
      let [said, status] = ['', undefined as number | null | undefined]
      t.teardown(() => user.kill())
      user.stdout?.on('data', text => {
        said += text
      })
      user.once('close', code => {
        status = code
      })
      await until(() => said === 'open\n', 'the disk is in use')
      await first.interrupt('SIGKILL')
      const waits = async (): Promise<void> => {
        t.is((await (await UblkDevice.open(id)).info()).state, state)
        t.deepEqual(await sh('ls -l /proc/"$1"/fd | grep -c "ublkc[0-9]" || true', `${process.pid}`), '0\n')
        await until(() => workers.size === 0, 'no worker is left')
      }
      for (const make of [() => file(path), () => worker(IN_FILE, { path, size: SIZE })]) {
        {
          using _ = afterLive(() => {
            throw new Error('not now')
          })
          await t.throwsAsync(UblkDevice.recover(id, { backend: make() }), { message: /not now/ })
          await waits()
        }
        const control = new AbortController()
        using _ = afterLive(() => control.abort('too late'))
        const recovered = UblkDevice.recover(id, { backend: make(), signal: control.signal })
        t.deepEqual(await Promise.allSettled([recovered]), [{ status: 'rejected', reason: 'too late' }])
        await waits()
      }
      const ends = Server.program(`
        import { createRequire } from 'node:module'
        import { file, UblkDevice } from 'ublk-ts'
        const { Device } = createRequire('${BINDING}')('${BINDING}')
        const { info } = Device.prototype
        let times = 0
        Device.prototype.info = function () {
          if (++times === 2) process.exit(3)
          return info.call(this)
        }
        await UblkDevice.recover(${id}, { backend: ${backend} })`)
      await t.throwsAsync(ends, { message: /status 3: $/ })
      await waits()

      await using last = await UblkDevice.recover(id, { backend: file(path) })
      t.is((await last.info()).state, 'live')
      writeFileSync(go, '')
      await until(() => status !== undefined, 'the user has read')
      t.is(status, 0)
      t.is(said, `open\n${'\u0007'.repeat(4096)}`)
    },
  )
}

test.serial('a disk that is taken over is served, though its record cannot say where the log is', async t => {
  const path = '/tmp/unwind.disk'
  writeFileSync(path, Buffer.alloc(SIZE))
  const disk = await UblkDevice.create({ backend: file(path), recovery: 'reissue', partitionScan: false })
  await disk.quiesce()
  await disk.release()
  const log = (): string => {
    throw new Error('no log')
  }
  const warned = once(process, 'warning')
  await using again = await UblkDevice.recover(disk.id, { backend: file(path), record: { log } })
  t.regex(String((await warned)[0]), /does not say where its log is: Error: no log/)
  t.is((await again.info()).state, 'live')
  t.true(existsSync(`${RUN_DIR}/${again.id}.json`))
})

test.after('workers were counted', t => {
  t.true(begun > 5)
})

test.serial('a module that fails leaves no worker, whatever it has begun', async t => {
  const module = 'setInterval(() => {}, 1000); export default () => { throw new Error("not today") }'
  const backend = worker(`data:text/javascript,${encodeURIComponent(module)}`)
  await t.throwsAsync(UblkDevice.create({ backend }), { message: /not today/ })
  await nothingIsLeft(t)
})
