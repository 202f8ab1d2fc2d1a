// processors: 1 and 2
import { connect } from 'node:net'
import { memory, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind, readAllTheTime } from '../support/devices.js'
import { parseOpenMetrics } from '../support/openmetrics.js'
import { onTwo, test } from '../support/processors.js'
import { run, sh } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNothingBehind(test)

const write = async (path: string, count: number) =>
  await sh('dd if=/dev/zero of="$1" bs=4k count="$2" oflag=direct conv=notrunc status=none', path, `${count}`)

onTwo('stats shows what devices have done, by device or by queue', async t => {
  await Server.with('--mem 16M --id 3 --queues 2', async one => {
    await Server.with('--null 16M --id 4', async two => {
      await write(one.path, 7)
      await write(two.path, 2)
      const { stdout, stderr, status } = await run('stats')
      t.deepEqual([status, stderr], [0, ''])
      const [heading, ...rows] = stdout.trim().split('\n')
      t.regex(heading ?? '', /^ID +OP +OPS +BYTES +ERRORS +MEAN +P50 +P99 +MAX$/)
      t.regex(
        rows.find(row => /^ 3 +write/.test(row)) ?? stdout,
        /^ 3 +write +7 +28K +0( +[\d.]+(ns|us|ms|s)){4}$/,
      )
      t.regex(
        rows.find(row => /^ 4 +write/.test(row)) ?? stdout,
        /^ 4 +write +2 +8K +0( +[\d.]+(ns|us|ms|s)){4}$/,
      )

      const json = JSON.parse((await run('stats', '--json', '--by-queue', one.path)).stdout).stats
      t.deepEqual(
        new Set(json.map((row: { id: number; queue: number }) => `${row.id} ${row.queue}`)),
        new Set(['3 0', '3 1']),
      )
      const writes = json.filter(({ op }: { op: string }) => op === 'write')
      const sum = (name: string) =>
        writes.reduce((total: number, row: Record<string, number>) => total + (row[name] ?? 0), 0)
      t.deepEqual([sum('ops'), sum('bytes'), sum('errors'), sum('in-flight')], [7, 28672, 0, 0])
      const [used] = writes.filter(({ ops }: { ops: number }) => ops > 0)
      t.true(0 < used.p50 && used.p50 <= used.p99 && used.p99 <= used.max && used.mean <= used.max)

      t.is(
        (await run('stats', '-n', '-b', '-o', 'op,ops,bytes', '4')).stdout.split('\n')[1],
        'write  2  8192',
      )
    })
  })
})

test('stats --interval shows rates, as often as it is told to', async t => {
  await Server.with('--mem 16M', async ({ path, id }) => {
    await using _ = readAllTheTime(path)
    const table = await run('stats', '--interval', '0.5', '--count', '2', `${id}`)
    t.is(table.status, 0)
    const reports = table.stdout.trim().split('\n\n')
    t.is(reports.length, 2)
    for (const report of reports) {
      t.regex(report, /^ID +OP +OPS\/S +BYTES\/S +ERRORS\/S +MEAN +P50 +P99 +MAX\n/)
      t.regex(report, /^ *\d+ +read +[1-9]\d*(\.\d)? +[\d.]+[BKM] +0 /m)
    }
    const lines = (await run('stats', '--interval', '0.3', '--count', '3', '--json')).stdout
      .trim()
      .split('\n')
    t.is(lines.length, 3)
    for (const line of lines) {
      const [read] = JSON.parse(line).stats
      t.is(read.op, 'read')
      // Requests of 4 KiB, but for those that were at work when the rates were taken.
      t.true(Math.abs(read['bytes/s'] / 4096 / read['ops/s'] - 1) < 0.05, line)
    }
  })
})

test('what nobody can be asked about is told in one line', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') }) // without a record
  const named = await run('stats', disk.path)
  t.is(named.status, 1)
  t.regex(named.stderr, /^ublk-ts: nobody can be asked about device \d+[^\n]*\n$/)
  await Server.with('--mem 16M', async ({ id }) => {
    const all = await run('stats', '-n', '-o', 'id,op')
    t.deepEqual([all.status, all.stdout], [0, `${id}  read\n${id}  write\n`])
    t.regex(all.stderr, /^ublk-ts: \/dev\/ublkb\d+ is left out: [^\n]+\n$/)
    const families = parseOpenMetrics((await run('metrics')).stdout)
    const up = families.get('ublk_up')?.samples.map(({ labels, value }) => [labels['device'], value])
    t.deepEqual(
      up?.sort(),
      [
        [`ublkb${disk.id}`, 0],
        [`ublkb${id}`, 1],
      ].sort(),
    )
  })
  const gone = await run('stats', '99')
  t.is(gone.status, 1)
  t.regex(gone.stderr, /^ublk-ts: [^\n]*99[^\n]*\n$/)
})

/** Sends bytes to a port and gives what comes back until the end. */
async function talk(port: number, text: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  let answer = ''
  socket.setEncoding('utf8').on('data', data => {
    answer += data
  })
  socket.write(text)
  await new Promise(resolve => socket.once('close', resolve))
  return answer
}

onTwo(
  'metrics are served as OpenMetrics text to whoever asks, and nothing that is asked ends that',
  async t => {
    await Server.with('--mem 16M --id 6', async ({ path }) => {
      await write(path, 5)
      const { stdout } = await run('stats', '--openmetrics', path)
      const requests = (text: string) =>
        parseOpenMetrics(text)
          .get('ublk_requests')
          ?.samples.filter(({ labels }) => labels['device'] === 'ublkb6' && labels['op'] === 'write')
          .map(({ value }) => value)
      t.deepEqual(requests(stdout), [5])

      const endpoint = await Server.command('metrics', '--listen', '127.0.0.1:0')
      t.teardown(() => endpoint.signal('SIGKILL'))
      const url = endpoint.line
      t.regex(url, /^http:\/\/127\.0\.0\.1:\d+\/metrics$/)
      const port = Number(new URL(url).port)
      const answers = await Promise.all(Array.from({ length: 20 }, () => fetch(url)))
      for (const answer of answers) {
        t.is(answer.status, 200)
        t.regex(answer.headers.get('content-type') ?? '', /^application\/openmetrics-text; version=1\.0\.0/)
        t.deepEqual(requests(await answer.text()), [5])
      }
      t.is((await fetch(url, { method: 'HEAD' })).status, 200)
      t.is((await fetch(new URL('/', url))).status, 404)
      t.is((await fetch(url, { method: 'POST', body: 'x'.repeat(2 ** 20) })).status, 405)
      t.regex(await talk(port, '\0\xff nonsense\r\n\r\n'), /^HTTP\/1\.1 400 /)
      // The answer may be lost with the connection, which is reset.
      const large = `GET /metrics HTTP/1.1\r\nx: ${'y'.repeat(2 ** 17)}\r\n\r\n`
      t.regex(await talk(port, large), /^(HTTP\/1\.1 431 |$)/)
      connect(port, '127.0.0.1')
        .on('error', () => {})
        .unref() // It says nothing, and stays.
      t.is((await fetch(url)).status, 200)

      const second = await run('metrics', '--listen', `127.0.0.1:${port}`)
      t.is(second.status, 1)
      t.regex(second.stderr, /^ublk-ts: cannot listen at 127\.0\.0\.1:\d+: [^\n]*EADDRINUSE[^\n]*\n$/)

      t.deepEqual(await endpoint.interrupt('SIGTERM'), {
        status: 0,
        signal: null,
        stdout: `${url}\n`,
        stderr: '',
      })
    })
  },
)
