// seconds: 15
import { EventEmitter } from 'node:events'
import test from 'ava'
import { DiskPool, memory, powercut, tracked, UblkDevice, UblkError } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'

leaveNothingBehind(test)

/** Calls of each method with what it does not take. A method without arguments has none. */
const WRONG: Readonly<Record<string, readonly (readonly unknown[])[]>> = {
  info: [],
  users: [[null], [{ quik: true }], [{ quick: 1 }]],
  stats: [],
  totals: [],
  lazyProgress: [],
  connection: [],
  volume: [],
  prefetch: [
    [0],
    [[{}]],
    [[{ offset: -1, length: 1 }]],
    [[{ offset: 0, length: 0.5 }]],
    [undefined, { singal: 1 }],
  ],
  mark: [[], [5], ['']],
  exportLog: [[], [5], ['a', { signal: 1 }], ['a', { wait: true }], [new URL('https://example.org/')]],
  checkpoint: [[], [''], [{}]],
  checkpoints: [],
  removeCheckpoint: [[], [0]],
  changed: [[], ['monday'], [{ sinse: 'monday' }], [{ since: 1 }]],
  diff: [[], ['out'], [{ out: 5 }], [{ out: 'a', format: 'zip' }], [{ uot: 'a' }]],
  trace: [[], ['x'], [() => {}, { signal: {} }], [() => {}, null]],
  resize: [[], [{}], ['12Q'], [-1], ['1M', { froce: true }], ['1M', { force: 1 }]],
  snapshot: [[], [1]],
  snapshots: [],
  removeSnapshot: [[], [0]],
  fork: [[], [{}], [{ uper: 'a' }], [{ upper: 'a', name: 1 }]],
  flatten: [[null], [{ rate: 'fast' }], [{ rte: 1 }]],
  flattening: [],
  move: [
    [],
    [5],
    [{ kind: 'lazy', size: 4096, source: 'a' }],
    [memory('1M'), { rate: 'fast' }],
    [memory('1M'), { overwrite: 1 }],
  ],
  moving: [],
  resync: [[null], [{ rate: 'fast' }], [{ rte: 1 }]],
  resyncing: [],
  sides: [],
  commit: [[0], [{ rate: {} }], [{ force: 'yes' }], [{ onProgres() {} }]],
  committing: [],
  reset: [[1], [{ force: 0 }], [{ wait: true }]],
  layers: [],
  stop: [['now'], [{ force: 'yes' }], [{ wiat: true }], [{ onProgress: 1 }]],
  delete: [[null], [{ wait: 1 }], [{ signal: 'x' }], [{ forse: true }]],
  start: [[1], [{ signal: {} }]],
  quiesce: [[1], [{ siganl: 1 }]],
  resume: [[1], [{ signal: 5 }]],
  release: [],
  share: [[], [5], [''], ['a', { x: 1 }]],
  cut: [[1], [{ modle: 'torn' }], [{ model: 'worn' }], [{ seed: -1 }]],
  cutAt: [[], [5], [{}], [{ flush: 0 }], [{ flsh: 1 }], [{ flush: 1, write: 1 }]],
  restore: [],
  crashStates: [[1], [{ budjet: 1 }], [{ budget: 0 }], [{ model: 'worn' }], [{ from: 1 }]],
  crashState: [[], [5], ['1.1', { budget: 'x' }]],
}

/** Of the prototype's own, all that is public. */
const methodsOf = (prototype: object): string[] =>
  Object.entries(Object.getOwnPropertyDescriptors(prototype)).flatMap(([name, { value }]) =>
    typeof value === 'function' && name !== 'constructor' ? [name] : [],
  )

const INTERNAL = ['changedPart', 'heat', 'writeDiff']

type Any = Readonly<Record<string, (...given: readonly unknown[]) => unknown>>

async function call(object: unknown, name: string, given: readonly unknown[]): Promise<void> {
  const result = (object as Any)[name]?.(...given)
  await (name === 'crashStates' ? (result as AsyncGenerator).next() : result)
}

test('every method of a disk says in one line what is wrong with an argument, with a code of Node’s', async t => {
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M' }) })
  const all = new Set<string>()
  for (
    let part = Object.getPrototypeOf(disk);
    part !== EventEmitter.prototype;
    part = Object.getPrototypeOf(part)
  )
    for (const name of methodsOf(part)) all.add(name)
  const methods = [...all].filter(name => !INTERNAL.includes(name))
  t.deepEqual(methods.toSorted(), Object.keys(WRONG).toSorted())
  for (const [name, calls] of Object.entries(WRONG)) {
    for (const given of calls) {
      const what = `${name}(${given.map(each => JSON.stringify(each) ?? String(each))})`
      const error = await t.throwsAsync<UblkError>(async () => await call(disk, name, given), undefined, what)
      t.true(error instanceof UblkError, `${what}: ${error}`)
      t.is(error?.kind, 'invalid', `${what}: ${error?.message}`)
      t.regex(error?.code ?? '', /^ERR_(INVALID_ARG_(TYPE|VALUE)|OUT_OF_RANGE)$/, what)
      t.notRegex(error?.message ?? '', /\n/, what)
    }
  }
  t.is((await disk.info()).state, 'live', 'nothing was done')
  const rules = disk.faults as unknown as Any
  for (const given of [
    [],
    [5],
    [[{ op: 'wirte', errno: 'EIO' }]],
    [{ profil: 'hdd-7200' }],
    [[{ errno: 'EIO', nht: 1 }]],
  ]) {
    await t.throwsAsync(
      async () => await rules['set']?.(...given),
      { instanceOf: UblkError },
      JSON.stringify(given),
    )
  }
  await using pool = new DiskPool({ spare: 1 })
  for (const given of [
    5,
    {},
    { backend: {} },
    { backend: memory('1M'), naem: 'db' },
    { backend: memory('1M'), name: 5 },
  ]) {
    const error = await t.throwsAsync<UblkError>(async () => await pool.take(given as never), {
      instanceOf: UblkError,
    })
    t.is(error?.kind, 'invalid', JSON.stringify(given))
  }
})

test('a disk is shown with what it is, by whatever object', async t => {
  const { inspect } = await import('node:util')
  await using disk = await UblkDevice.create({
    backend: tracked(memory('1M'), { map: '/tmp/shown.map' }),
    name: 'db',
    record: true,
  })
  const { id, path } = disk
  const told = `{
  id: ${id},
  path: '${path}',
  name: 'db',
  size: '1M',
  backend: 'tracked memory 1M, changes in /tmp/shown.map',
  queues: 1,
  state: 'live',
  servedHere: true
}`
  t.is(inspect(disk), `ServedDevice ${told}`)
  t.is(inspect(await UblkDevice.open(id)), `UblkDevice ${told}`)
  t.is(inspect([[[disk]]]), `[ [ [ [ServedDevice ${path}] ] ] ]`)
  t.notThrows(() => inspect(UblkDevice.prototype))
  await using own = await UblkDevice.create({ backend: { size: '1M', read() {} } })
  t.regex(inspect(own), /backend: 'JavaScript'/)
  await disk.delete()
  t.regex(inspect(disk), /state: 'gone'/)
})

test('the totals of a disk are the sums of its queues’ counters', async t => {
  await using disk = await UblkDevice.create({ backend: memory('1M'), record: true })
  const { execFileSync } = await import('node:child_process')
  execFileSync('dd', ['if=/dev/zero', `of=${disk.path}`, 'bs=4k', 'count=3', 'oflag=direct', 'status=none'])
  const { writes, writeBytes, errors, inFlight } = disk.totals()
  t.deepEqual([writes, writeBytes, errors, inFlight], [3, 12288, 0, 0])
  const [queue] = disk.stats()
  t.is(disk.totals().reads, queue?.read.ops ?? -1)
  t.deepEqual((await (await UblkDevice.open(disk.id)).totals()).writes, 3)
})

test('who watches all disks of a process gets their events', async t => {
  const { subscribe, unsubscribe } = await import('node:diagnostics_channel')
  const told: [string, string][] = []
  const watch = (message: unknown, name: string | symbol): void => {
    told.push([String(name), (message as { disk: UblkDevice }).disk.path])
  }
  const names = ['live', 'stopped', 'deleted', 'error'].map(name => `ublk-ts.disk.${name}`)
  for (const name of names) subscribe(name, watch)
  const disk = await UblkDevice.create({ backend: memory('1M') })
  await disk.stop()
  await disk.start()
  await disk.delete()
  for (const name of names) unsubscribe(name, watch)
  t.deepEqual(
    told,
    ['live', 'stopped', 'live', 'deleted'].map(name => [`ublk-ts.disk.${name}`, disk.path]),
  )
})
