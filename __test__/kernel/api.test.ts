// processors: 1 and 2
import type { ExecutionContext } from 'ava'
import { features, file, memory, nullDisk, UblkDevice, UblkError } from 'ublk-ts'
import { leaveNothingBehind, nodes, readAllTheTime } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { MAIN, result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNothingBehind(test)

// All I/O is done by other processes: one that is a client of its own disk cannot be killed cleanly.
const write = (path: string) =>
  sh(
    'head -c 1M /dev/urandom >"$1.data"; dd if="$1.data" of="$2" bs=64k conv=fsync,nocreat status=none; sha256sum <"$1.data"; rm "$1.data"',
    `/tmp/${path.replaceAll('/', '_')}`,
    path,
  )
const read = (path: string) => sh('head -c 1M "$1" | sha256sum', path)

test('a disk can be written and read, and is gone after delete', async t => {
  const disk = await UblkDevice.create({ backend: memory('16M') })
  t.is(disk.path, `/dev/ublkb${disk.id}`)
  t.is(disk.size, 2 ** 24)
  t.is(disk.blockSize, 512)
  t.is(disk.queues, 1)
  t.is(disk.depth, 128)
  t.false(disk.readOnly)
  t.true(disk.local)
  t.is(await write(disk.path), await read(disk.path))
  await disk.delete()
  t.deepEqual(nodes(), [])
  await t.notThrowsAsync(disk.delete(), 'deleting it again does nothing')
})

test('`await using` deletes it', async t => {
  {
    await using disk = await UblkDevice.create({ backend: nullDisk('1G') })
    t.true(nodes().includes(`ublkb${disk.id}`))
  }
  t.deepEqual(nodes(), [])
})

onTwo('what it says about itself is what was asked for', async t => {
  await using disk = await UblkDevice.create({
    backend: memory('16M'),
    id: 7,
    queues: 2,
    depth: 16,
    blockSize: '1K',
    maxIo: '64K',
    readOnly: true,
    rotational: true,
  })
  t.like(await disk.info(), {
    id: 7,
    state: 'live',
    path: '/dev/ublkb7',
    charPath: '/dev/ublkc7',
    size: 2 ** 24,
    blockSize: 1024,
    queues: 2,
    depth: 16,
    maxIo: 65536,
    readOnly: true,
    rotational: true,
    writeCache: false,
    pid: process.pid,
    serverAlive: true,
    ownerUid: 0,
  })
})

test('a disk can be stopped and started again, with its contents', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M'), start: false })
  t.deepEqual(nodes(), [`ublkc${disk.id}`])
  const events: string[] = []
  disk.on('live', () => events.push('live'))
  disk.on('stopped', () => events.push('stopped'))
  disk.on('deleted', () => events.push('deleted'))
  disk.on('exit', () => events.push('exit'))
  await disk.start()
  const sum = await write(disk.path)
  await disk.stop()
  t.deepEqual(nodes(), [`ublkc${disk.id}`])
  await disk.start()
  t.is(await read(disk.path), sum)
  await disk.delete()
  t.deepEqual(events, ['live', 'stopped', 'live', 'deleted'])
})

onTwo('counters count', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M'), queues: 2, writeCache: true })
  const sum = (op: 'read' | 'write' | 'flush', field: 'ops' | 'bytes' | 'errors') =>
    disk.stats().reduce((total, queue) => total + queue[op][field], 0)
  t.deepEqual(
    disk.stats().map(queue => queue.queue),
    [0, 1],
  )
  const before = sum('read', 'bytes')
  await write(disk.path)
  t.is(sum('write', 'bytes'), 2 ** 20)
  t.true(sum('flush', 'ops') >= 1)
  await sh(
    'dd if="$1" of=/dev/null bs=1M iflag=direct,skip_bytes,count_bytes skip=8M count=1M status=none',
    disk.path,
  )
  t.is(sum('read', 'bytes') - before, 2 ** 20)
  t.is(sum('read', 'errors') + sum('write', 'errors'), 0)
  t.true(disk.stats().every(queue => queue.turns > 0))
})

test('several disks in one process keep apart', async t => {
  await using one = await UblkDevice.create({ backend: memory('16M') })
  await using two = await UblkDevice.create({ backend: memory('16M') })
  const [a, b] = [await write(one.path), await write(two.path)]
  t.not(a, b)
  t.is(await read(one.path), a)
  t.is(await read(two.path), b)
  t.deepEqual((await UblkDevice.list()).map(info => info.id).sort(), [one.id, two.id].sort())
})

test('a file keeps what was written after its disk is gone', async t => {
  const path = '/tmp/ublk-ts-api.img'
  await sh('truncate -s 16M "$1"', path)
  const disk = await UblkDevice.create({ backend: file(path) })
  t.true((await disk.info()).writeCache)
  const sum = await write(disk.path)
  await disk.delete()
  t.is(await read(path), sum)
  await sh('rm "$1"', path)
})

test('a handle tells about any device, and drops it when disposed of', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  {
    await using handle = await UblkDevice.open(disk.id)
    t.deepEqual(await handle.info(), await disk.info())
    t.deepEqual(await handle.stats(), disk.stats(), 'it is served here')
  }
  t.is((await disk.info()).state, 'live')
  await (await UblkDevice.open(disk.id)).delete()
  t.deepEqual(nodes(), [])
  await t.throwsAsync(disk.info(), { name: 'UblkError' })
  await t.throwsAsync(disk.start(), { name: 'UblkError' })
})

test('what is wrong is told by the kind of the error', async t => {
  const kind = async (attempt: Promise<unknown>) => {
    const error = await t.throwsAsync(attempt, { instanceOf: UblkError })
    t.notRegex(error?.message ?? '', /\n/)
    return error?.kind
  }
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  t.is(await kind(UblkDevice.create({ backend: memory('16M'), id: disk.id })), 'exists')
  t.is(await kind(UblkDevice.create({ backend: memory('16M'), queues: 0 })), 'invalid')
  t.is(await kind(UblkDevice.create({ backend: file('/nowhere') })), 'backend')
  t.is(await kind(UblkDevice.create({ backend: file('/tmp') })), 'backend')
  t.is(await kind(UblkDevice.open(disk.id + 100)), 'not-found')
  t.is(await kind(UblkDevice.open(-1)), 'invalid')
  t.is(await kind(disk.start()), 'busy', 'it is started already')
  t.is(nodes().length, 2)
})

test('a creation that is aborted leaves nothing behind', async t => {
  const reason = new Error('enough')
  await t.throwsAsync(UblkDevice.create({ backend: memory('16M'), signal: AbortSignal.abort(reason) }), {
    is: reason,
  })
  for (const delay of [0, 1, 3, 10, 30]) {
    const controller = new AbortController()
    setTimeout(() => controller.abort(reason), delay)
    try {
      const disk = await UblkDevice.create({ backend: memory('16M'), signal: controller.signal })
      await disk.delete() // It was faster.
    } catch (error) {
      t.is(error, reason)
    }
    // What the driver had begun when it was aborted is undone as soon as the driver has finished it.
    await until(() => nodes().length === 0, 'nothing is left')
  }
})

/** Opens a disk in another process, until that is killed. */
async function hold(t: ExecutionContext, disk: UblkDevice) {
  const child = shell('exec sleep 60 <"$1"', disk.path)
  const ended = result(child)
  t.teardown(() => child.kill())
  await until(async () => (await disk.users()).some(user => user.includes('sleep')), 'the disk is open')
  return async () => {
    child.kill()
    await ended
  }
}

test('a held disk is not deleted', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  const release = await hold(t, disk)
  for (const attempt of [disk.stop(), disk.delete()]) {
    const error = await t.throwsAsync(attempt, { instanceOf: UblkError, message: /in use.*sleep/ })
    t.is(error?.kind, 'busy')
  }
  t.is((await disk.info()).state, 'live')
  await release()
  await disk.delete()
})

test('a held disk is deleted when it is free, if asked to wait', async t => {
  const disk = await UblkDevice.create({ backend: memory('16M') })
  const release = await hold(t, disk)
  const giveUp = AbortSignal.timeout(1000)
  const reason = await disk.delete({ wait: true, signal: giveUp }).catch(error => error)
  t.is(reason, giveUp.reason)
  const waiting = disk.delete({ wait: true })
  await release()
  await waiting
  t.deepEqual(nodes(), [])
})

test('a held disk is deleted at once, if forced', async t => {
  const disk = await UblkDevice.create({ backend: memory('16M') })
  const release = await hold(t, disk)
  const began = performance.now()
  await disk.delete({ force: true })
  t.true(performance.now() - began < 2000)
  t.deepEqual(nodes(), [])
  await release()
})

test('its server hears of it when another process deletes the device', async t => {
  const disk = await UblkDevice.create({ backend: memory('16M') })
  const exit = new Promise<{ reason: string }>(resolve => disk.once('exit', resolve))
  const deleted = run('delete', disk.path)
  t.regex((await exit).reason, /stopped by another process/)
  await disk.delete()
  t.deepEqual(await deleted, { status: 0, signal: null, stdout: '', stderr: '' })
})

const REMOTE = `
  import { UblkDevice } from 'ublk-ts'
  const handle = await UblkDevice.open(Number(process.argv[1]))
  const say = (...words) => console.log(handle.local, ...words)
`

/** Runs a script in another process; it has a `handle` to the disk. */
async function elsewhere(disk: UblkDevice, script: string): Promise<string> {
  const words = 'cd "$(dirname "$1")"; exec node --input-type=module -e "$2" "$3"'
  return await sh(words, MAIN, REMOTE + script, `${disk.id}`)
}

test('a handle counts, traces and resizes the device of another process through its server', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M'), record: true })
  await write(disk.path)
  const [queue] = disk.stats()
  const counted = await elsewhere(disk, 'say((await handle.stats())[0].write.bytes)')
  t.is(counted, `false ${queue?.write.bytes}\n`)
  t.is(await elsewhere(disk, "await handle.resize('8M'); say(handle.size)"), `false ${8 * 2 ** 20}\n`)
  t.is((await disk.info()).size, 8 * 2 ** 20)

  const busy = readAllTheTime(disk.path)
  const traced = await elsewhere(
    disk,
    `
    const [first, done] = [[], new AbortController()]
    await handle.trace(records => { first.push(...records); done.abort() }, { signal: done.signal })
    say(first[0].op, await handle.trace(() => { throw new Error('enough') }).catch(error => error.message))`,
  )
  await busy[Symbol.asyncDispose]()
  t.is(traced, 'false read enough\n')
})

test('without a record the server of another process cannot be asked', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  const said = await elsewhere(
    disk,
    `
    const asked = [() => handle.stats(), () => handle.trace(() => {}), () => handle.resize('8M')]
    for (const ask of asked) await ask().catch(error => say(error.kind, error.message))`,
  )
  t.is(said, `false not-found nobody can be asked about device ${disk.id}\n`.repeat(3))
})

test('a process that serves no disk any more ends by itself', async t => {
  const script = `
    import { memory, UblkDevice } from 'ublk-ts'
    const disk = await UblkDevice.create({ backend: memory('16M') })
    setTimeout(() => disk.delete(), 100)
    process.on('exit', () => console.log('end'))`
  t.is(await sh('cd "$(dirname "$1")"; exec node --input-type=module -e "$2"', MAIN, script), 'end\n')
})

test('a process that ends while it serves leaves no disk', async t => {
  const script = `
    import { memory, UblkDevice } from 'ublk-ts'
    await UblkDevice.create({ backend: memory('16M') })
    process.exit(3)`
  await t.throwsAsync(sh('cd "$(dirname "$1")"; exec node --input-type=module -e "$2"', MAIN, script), {
    message: /status 3/,
  })
  t.deepEqual(
    nodes().filter(name => name.startsWith('ublkb')),
    [],
  )
  for (const { id, state } of await UblkDevice.list()) {
    t.not(state, 'live')
    await (await UblkDevice.open(id)).delete()
  }
})

test('features are those of this kernel', async t => {
  const list = await features()
  t.true(list.length >= 15)
  t.true(
    list.some(
      feature => feature.name.includes('USER_RECOVERY') && feature.supported && feature.since === '6.1',
    ),
  )
  t.deepEqual(
    list.map(feature => feature.bit),
    [...list.map(feature => feature.bit)].sort((a, b) => a - b),
  )
})
