// seconds: 25
import { mkdirSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import test from 'ava'
import { UblkDevice } from 'ublk-ts'
import type { Disk, Disks, Heat, Tick } from '../../dist/dashboard/protocol.js'
import { Dashboard } from '../../dist/dashboard/server.js'
import { Machine } from '../../dist/dashboard/source.js'
import type { HeatPart } from '../../dist/info.js'
import { Recorder } from '../support/dashboard.js'
import { leaveNothingBehind } from '../support/devices.js'
import { Events } from '../support/events.js'
import { LayersDir } from '../support/layers-dir.js'
import { sh } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNothingBehind(test)

const dir = new LayersDir(test, 'dashboard')
/** What the browser's test shows: the fresh recording, if this ran before. */
const RECORDED = fileURLToPath(new URL('../../dist-test/dashboard.json.gz', import.meta.url))

/** The header with the token of a URL. */
function headersOf(url: string): { host: string; authorization: string } {
  const { host, hash } = new URL(url)
  return { host, authorization: `Bearer ${hash.replace('#token=', '')}` }
}

/** Whether a cell has bytes that the load uses: from 8 to 16 MiB. */
function touches(cell: number, bytes: number): boolean {
  return (cell + 1) * bytes > 8 * 2 ** 20 && cell * bytes < 16 * 2 ** 20
}

test('the dashboard shows where disks are read, written, fetched and layered, and faults that fire, under load', async t => {
  const servers = await Promise.all([
    Server.start(`--file ${dir.base} --overlay ${dir.at('vm1.cow')} --id 1`),
    Server.start(`--lazy ${dir.base} --cache ${dir.at('cache')} --cache-max 16M --id 2`),
    Server.start('--mem 64M --fault op=read,every=50,errno=EIO --id 3'),
    Server.start('--mem 16M --id 4'),
  ])
  const recorder = new Recorder(new Machine(UblkDevice))
  const dashboard = await Dashboard.listen(recorder, { port: 0, mayChange: true })
  const origin = dashboard.origin
  const port = Number(new URL(origin).port)
  const headers = headersOf(dashboard.url)
  const streams: Events[] = []
  const look = (path: string): Events => {
    const events = new Events(port, path, headers)
    streams.push(events)
    return events
  }
  try {
    const all = look('/events')
    const { disks } = await all.next<Disks>('disks')
    t.deepEqual(
      disks.map(({ about }) => [about.id, about.backend, about.trouble]),
      [
        [1, 'overlay', null],
        [2, 'lazy', null],
        [3, 'faults', null],
        [4, 'memory', null],
      ],
    )
    const ofDisk = [1, 2, 3].map(id => look(`/disks/${id}/events`))
    const [overlay, lazy, faulty] = ofDisk as [Events, Events, Events]
    const first = await overlay.next<Disk>('disk')
    t.deepEqual(
      first.detail.layers.map(({ path, written }) => [path, written]),
      [[dir.at('vm1.cow'), true]],
    )
    t.true(first.detail.stack.some(({ kind, files }) => kind === 'file' && files[0]?.size === 48 * 2 ** 20))

    const load = sh(
      `cd "$1"; fio --direct=1 --ioengine=libaio --iodepth=8 --time_based --runtime=8 --output-format=terse \\
        --rate_iops=400 --continue_on_error=all \\
        --name=one --filename=/dev/ublkb1 --rw=randrw --bs=4k --offset=8m --size=8m --random_distribution=zipf:1.2 \\
        --name=two --filename=/dev/ublkb2 --rw=randrw --rwmixread=90 --bs=64k --size=8m \\
        --name=three --filename=/dev/ublkb3 --rw=randread --bs=16k --size=64m >fio.out || true`,
      dir.path,
    )
    // The disk is written from 8 to 16 MiB, and nowhere else.
    const seen = { read: 0, written: 0, elsewhere: 0, cells: 0 }
    let layered = 0
    while (seen.written < 2 ** 20 || seen.read < 2 ** 20 || layered === 0) {
      const part = await partOf(overlay)
      seen.cells = Math.ceil(part.size / part.cell)
      for (let at = 0; at < part.counts.length; at += 4) {
        const [cell = 0, read = 0, written = 0] = part.counts.slice(at, at + 4)
        const inside = touches(cell, part.cell)
        if (!inside) seen.elsewhere += written
        seen.read += read
        seen.written += written
      }
      if (typeof part.layered === 'string') {
        const shares = [...Buffer.from(part.layered, 'base64')]
        t.is(shares.length, seen.cells)
        layered = shares.filter(share => share > 0).length
        const outside = shares.filter((share, cell) => share > 0 && !touches(cell, part.cell))
        t.deepEqual(outside, [])
      }
      t.is(part.present ?? null, null)
    }
    t.is(seen.elsewhere, 0)
    t.is(seen.cells, 4096)

    let [present, dirty] = [0, 0]
    while (present === 0 || dirty === 0) {
      const part = await partOf(lazy)
      const count = (text: string | null | undefined): number =>
        [...Buffer.from(text ?? '', 'base64')].filter(share => share > 0).length
      if (part.present) present = count(part.present)
      if (part.dirty) dirty = count(part.dirty)
    }
    t.true(dirty <= present)

    let firing = 0
    while (firing === 0) {
      const part = await partOf(faulty)
      for (let at = 3; at < part.counts.length; at += 4) firing += part.counts[at] ?? 0
    }
    let tick: Tick
    do tick = await all.next<Tick>('tick')
    while (!(tick.rows.find(([id]) => id === 3)?.at(-1) ?? 0))
    t.true((tick.total[0] ?? 0) > 0 && (tick.total[3] ?? 0) > 0)
    await load
    // Rules are removed by the page.
    t.is(await post(`${origin}/disks/3/clear-faults`, { ...headers, origin }), 204)
    await until(async () => (await (await UblkDevice.open(3)).faults.get()).rules.length === 0, 'no rules')
  } finally {
    for (const events of streams) events.close()
    await dashboard.close()
    recorder[Symbol.dispose]()
    mkdirSync(fileURLToPath(new URL('../../dist-test/', import.meta.url)), { recursive: true })
    writeFileSync(RECORDED, gzipSync(JSON.stringify(recorder.recording)))
    for (const server of servers) t.like(await server.interrupt(), { status: 0, stderr: '' })
  }
})

/** What its server has counted in the next second. */
async function partOf(events: Events): Promise<HeatPart> {
  const { part, trouble } = await events.next<Heat>('heat')
  if (part) return part
  throw new Error(trouble)
}

async function post(url: string, headers: Record<string, string>): Promise<number> {
  return await new Promise((resolve, reject) => {
    const sent = request(url, { method: 'POST', headers }, response => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    sent.on('error', reject).end()
  })
}

test('ublk-ts dashboard prints a URL, watches disks that come and go, and Ctrl-C ends it', async t => {
  const dashboard = await Server.command('dashboard')
  t.regex(dashboard.line, /^http:\/\/127\.0\.0\.1:\d+\/#token=[\w-]{43}$/)
  const { port } = new URL(dashboard.line)
  const headers = headersOf(dashboard.line)
  const events = new Events(Number(port), '/events', headers)
  t.deepEqual((await events.next<Disks>('disks')).disks, [])
  await Server.with('--mem 16M --id 5', async () => {
    let ids: number[] = []
    while (ids.length === 0) ids = (await events.next<Tick>('tick')).about.map(({ id }) => id)
    t.deepEqual(ids, [5])
  })
  while ((await events.next<Tick>('tick')).gone.length === 0) await sleep(1)
  const { status, stderr } = await dashboard.interrupt()
  t.deepEqual([status, stderr], [0, ''])
  while (!events.ended) await sleep(5)
})
