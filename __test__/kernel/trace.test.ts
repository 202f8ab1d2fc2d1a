import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { run, sh } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNothingBehind(test)

const LINE =
  /^\d\d:\d\d:\d\d\.\d{6} q0 t\d+ \w+ \d+\+\d+( fua)?( meta)?( failfast)?( swap)? [\d.]+(ns|us|ms|s)$/

const write = async (path: string, count: number) =>
  await sh(
    'dd if=/dev/zero of="$1" bs=4k count="$2" seek=256 oflag=direct conv=notrunc status=none',
    path,
    `${count}`,
  )

/** Starts to trace a device, and waits until it does. */
async function attached(path: string, ...words: string[]): Promise<Server> {
  let told = false
  const poking = (async () => {
    while (!told) await sh('dd if="$1" of=/dev/null bs=512 count=1 iflag=direct status=none', path)
  })()
  const trace = await Server.command('trace', ...words, path)
  told = true
  await poking
  return trace
}

test('trace prints each request of a running server in a line, until interrupted', async t => {
  await Server.with('--mem 16M', async ({ path }) => {
    const trace = await attached(path)
    await write(path, 3)
    await until(() => trace.stdout.split(' write ').length === 4, 'three writes are told')
    const { status, stdout, stderr } = await trace.interrupt()
    t.deepEqual([status, stderr], [0, ''])
    const lines = stdout.trim().split('\n')
    t.true(
      lines.every(line => LINE.test(line)),
      stdout,
    )
    const writes = lines.map(line => /write (\S+)/.exec(line)?.[1]).filter(range => range !== undefined)
    t.deepEqual(writes, ['1048576+4096', '1052672+4096', '1056768+4096'])
  })
})

test('trace --json prints a line of JSON for each, and --count ends it', async t => {
  await Server.with('--mem 16M', async ({ path }) => {
    const trace = await attached(path, '--json', '--count', '40')
    await write(path, 40)
    const { status, stdout, stderr } = await trace.ended
    t.deepEqual([status, stderr], [0, ''])
    const records = stdout
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
    t.is(records.length, 40)
    const [record] = records.filter(({ op }) => op === 'write')
    t.like(record, { queue: 0, offset: 1048576, length: 4096, fua: false, done: 4096, error: null })
  })
})

test('trace ends well when its device is deleted', async t => {
  const server = await Server.start('--mem 16M')
  const trace = await attached(server.path)
  t.is((await server.interrupt()).status, 0)
  const { status, stderr } = await trace.ended
  t.deepEqual([status, stderr], [0, ''])
})

test('trace says in one line that its server was killed', async t => {
  const server = await Server.start('--mem 16M')
  const trace = await attached(server.path)
  await server.interrupt('SIGKILL')
  const { status, stderr } = await trace.ended
  t.is(status, 1)
  t.regex(stderr, /^ublk-ts: the server of device \d+ closed the connection\n$/)
  t.is((await run('delete', `${server.id}`)).status, 0)
})

test('trace of what is not there is a failure in one line', async t => {
  const { status, stderr } = await run('trace', '77')
  t.is(status, 1)
  t.regex(stderr, /^ublk-ts: [^\n]*77[^\n]*\n$/)
})

test('a trace that is read too slowly loses requests, says how many, and does not hold up the disk', async t => {
  await Server.with('--null 1G', async ({ path, id }) => {
    const trace = await attached(path, '--json')
    const answered = async (): Promise<number> => {
      const { stats } = JSON.parse((await run('stats', '--json', `${id}`)).stdout)
      return stats.find(({ op }: { op: string }) => op === 'read').ops
    }
    const before = await answered()
    trace.signal('SIGSTOP')
    const words = '--rw=randread --bs=4k --iodepth=64 --iodepth_batch=16 --ioengine=io_uring --direct=1'
    await sh(`fio --name=load ${words} --number_ios=100000 --size=1G --filename="$1"`, path)
    trace.signal('SIGCONT')
    const all = await answered()
    const told = (): number => {
      const lost = [...trace.stderr.matchAll(/^ublk-ts: (\d+) requests? (?:was|were) lost/gm)]
      return lost.reduce((sum, [, count]) => sum + Number(count), trace.stdout.split('\n').length - 1)
    }
    await until(() => told() >= all - before, 'the rest is told')
    t.true(told() <= all)
    t.regex(trace.stderr, /were lost/)
    t.is((await trace.interrupt()).status, 0)
  })
})

test('create --trace prints each request on stderr', async t => {
  const server = await Server.start('--mem 16M --trace')
  await write(server.path, 2)
  const { status, stdout, stderr } = await server.interrupt()
  t.deepEqual([status, stdout], [0, `${server.path}\n`])
  const lines = stderr.trim().split('\n')
  t.true(
    lines.every(line => LINE.test(line)),
    stderr,
  )
  t.is(lines.filter(line => / write /.test(line)).length, 2)
})
