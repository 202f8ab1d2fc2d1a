import { createServer, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { Guard } from '../../dist/dashboard/guard.js'
import type { Disk, Disks, Heat, Tick } from '../../dist/dashboard/protocol.js'
import { Dashboard } from '../../dist/dashboard/server.js'
import { Stream } from '../../dist/dashboard/stream.js'
import { untold } from '../../dist/dashboard/untold.js'
import { Arrivals, left } from '../support/arrivals.js'
import { MadeUp } from '../support/dashboard.js'
import { Events } from '../support/events.js'

interface Answer {
  readonly status: number
  readonly headers: NodeJS.Dict<string | string[]>
  readonly text: string
}

/** Serves disks that are made up. */
async function served(
  t: ExecutionContext,
  options: { disks?: number; mayChange?: boolean; period?: number } = {},
) {
  const { disks = 3, mayChange = false, period = 20 } = options
  const source = new MadeUp(disks)
  const dashboard = await Dashboard.listen(source, { port: 0, mayChange, period })
  t.teardown(async () => await dashboard.close())
  const port = Number(new URL(dashboard.origin).port)
  const ask = async (path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> =>
    await new Promise((resolve, reject) => {
      const sent = request(
        { port, path, method, headers: { host: `127.0.0.1:${port}`, ...headers } },
        response => {
          let text = ''
          response.setEncoding('utf8').on('data', more => {
            text += more
          })
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
          )
          response.on('error', reject)
        },
      )
      sent.on('error', reject).end()
    })
  const token = new URL(dashboard.url).hash.replace('#token=', '')
  const known = { authorization: `Bearer ${token}` }
  return { source, dashboard, port, ask, token, known }
}

test('who has the URL sees disks, and nobody else gets anything but an empty page', async t => {
  const { dashboard, port, ask, token, known } = await served(t, { mayChange: true })
  t.regex(dashboard.url, /^http:\/\/127\.0\.0\.1:\d+\/#token=[\w-]{43}$/)
  const { status, headers, text } = await ask('/')
  t.is(status, 200)
  // Browsers send cookies to all ports: another user's server would get the token.
  t.is(headers['set-cookie'], undefined)
  t.false(text.includes(token))
  t.is(await statusOf(port, '/events', known), 200)
  t.is(await statusOf(port, `/events?token=${token}`), 200)
  t.is(await statusOf(port, `/disks/0/events?token=${token}`), 200)

  const refused = [401, 'open the URL that was printed when the dashboard was started\n']
  for (const wrong of [
    '',
    'x',
    token.slice(1),
    `${token}x`,
    token.toLowerCase(),
    encodeURIComponent('ÿ'.repeat(43)),
  ]) {
    t.is((await ask(`/events?token=${wrong}`)).status, 401, wrong)
    t.is((await ask('/events', { authorization: `Bearer ${wrong}` })).status, 401, wrong)
    t.is((await ask('/events', { cookie: `token=${token}` })).status, 401)
  }
  for (const path of ['/events', '/disks/0/events', '/disks/0/thaw', '/page.html', '/../x']) {
    const answer = await ask(path)
    t.deepEqual([answer.status, answer.text], refused, path)
  }
  // What changes something needs the header, which no link can have.
  const origin = `http://127.0.0.1:${port}`
  t.is((await ask(`/disks/0/thaw?token=${token}`, { origin }, 'POST')).status, 401)
  t.is((await ask('/elsewhere', known)).status, 404)
  t.not(new Guard().token, new Guard().token)
})

test('a page of another site cannot ask, even with the token', async t => {
  const { port, ask, known, source } = await served(t, { mayChange: true })
  const own = `127.0.0.1:${port}`
  // DNS rebinding: the name is the attacker's, the address is ours.
  for (const host of [
    'evil.example',
    `evil.example:${port}`,
    '127.0.0.1.evil.example',
    '0.0.0.0',
    `10.0.0.1:${port}`,
    'localhost.',
  ]) {
    t.is((await ask('/', { ...known, host })).status, 421, host)
    t.is((await ask('/events', { ...known, host })).status, 421, host)
  }
  for (const host of [own, `localhost:${port}`, `[::1]:${port}`, 'localhost:8080', '127.0.0.1']) {
    t.is((await ask('/', { ...known, host })).status, 200, host)
  }
  for (const origin of [
    'http://evil.example',
    'null',
    `https://${own}`,
    `http://127.0.0.1:${port + 1}`,
    `http://localhost:${port}`,
  ]) {
    t.is((await ask('/events', { ...known, origin })).status, 403, origin)
    t.is((await ask('/disks/0/thaw', { ...known, origin }, 'POST')).status, 403, origin)
  }
  for (const site of ['cross-site', 'same-site']) {
    t.is((await ask('/events', { ...known, 'sec-fetch-site': site })).status, 403, site)
  }
  // What changes something has to say whose page it comes from.
  t.is((await ask('/disks/0/thaw', known, 'POST')).status, 403)
  t.deepEqual(source.acts, [])
  t.is((await ask('/disks/0/thaw', { ...known, origin: `http://${own}` }, 'POST')).status, 204)
  t.deepEqual(source.acts, ['thaw 0'])
  t.is((await ask('/disks/0/thaw', { ...known, origin: `http://${own}` })).status, 405)
  const { headers } = await ask('/', { ...known, origin: `http://${own}` })
  t.is(headers['access-control-allow-origin'], undefined)
})

test('without being asked to, the dashboard lets nobody change a disk', async t => {
  const { port, ask, known, source } = await served(t)
  const origin = `http://127.0.0.1:${port}`
  for (const action of ['thaw', 'clear-faults']) {
    const { status, text } = await ask(`/disks/0/${action}`, { ...known, origin }, 'POST')
    t.is(status, 403)
    t.regex(text, /only to look/)
  }
  t.is((await ask('/disks/0/delete', { ...known, origin }, 'POST')).status, 404)
  t.deepEqual(source.acts, [])
})

test('the page runs nothing that is not its own, and stays nowhere', async t => {
  const { ask, known } = await served(t)
  const { headers, text } = await ask('/', known)
  const policy = String(headers['content-security-policy'])
  t.regex(
    policy,
    /^default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'$/,
  )
  t.is(headers['cache-control'], 'no-store')
  t.is(headers['referrer-policy'], 'no-referrer')
  t.is(headers['x-content-type-options'], 'nosniff')
  t.is(headers['x-frame-options'], 'DENY')
  t.false(/<(script|link|img|iframe)[^>]+(src|href)="?https?:/.test(text))
  t.regex(text, /uPlot [\d.]+, https:\/\/github\.com\/leeoniya\/uPlot\n[\s\S]*MIT License[\s\S]*Copyright/)
  t.is((await ask('/', known, 'HEAD')).text, '')
  t.is((await ask('/', { ...known, 'content-length': '99999' }, 'GET')).status, 413)
  // Refusals have the same headers.
  t.is((await ask('/events')).headers['content-security-policy'], policy)
})

test('a page gets all disks once, and from then on what changes', async t => {
  const { port, known, source } = await served(t, { disks: 20 })
  const events = new Events(port, '/events', known)
  t.teardown(() => events.close())
  const all = await events.next<Disks>('disks')
  t.is(all.disks.length, 20)
  t.false(all.mayChange)
  t.is(all.disks[13]?.about.trouble, 'nobody can be asked about device 13')
  const tick = await events.next<Tick>('tick')
  // Only each third does something; what does nothing is not told again.
  t.deepEqual(
    tick.rows.map(([id]) => id),
    [0, 3, 6, 9, 12, 15, 18],
  )
  t.deepEqual(tick.about, [])
  t.deepEqual(tick.gone, [])
  source.disks = 17
  let gone: readonly number[] = []
  while (gone.length === 0) ({ gone } = await events.next<Tick>('tick'))
  t.deepEqual(gone, [17, 18, 19])
  source.disks = 18
  let about: Tick['about'] = []
  while (about.length === 0) ({ about } = await events.next<Tick>('tick'))
  t.deepEqual(
    about.map(({ id }) => id),
    [17],
  )
  source.failure = new Error('the driver is gone')
  let trouble: string | null = null
  while (trouble === null) ({ trouble } = await events.next<Tick>('tick'))
  t.is(trouble, 'the driver is gone')
  source.failure = undefined
  while (trouble !== null) ({ trouble } = await events.next<Tick>('tick'))
})

test('a server counts where a disk is read and written only while somebody looks, once for all who do', async t => {
  const { port, known, source, ask } = await served(t)
  t.is(source.reads, 0, 'nobody has looked yet')
  const one = new Events(port, '/disks/0/events', known)
  const disk = await one.next<Disk>('disk')
  t.is(disk.id, 0)
  t.like(disk.detail.stack[0], { kind: 'file' })
  const heat = await one.next<Heat>('heat')
  t.true((heat.part?.counts.length ?? 0) > 0)
  const other = new Events(port, '/disks/0/events', known)
  await other.next<Heat>('heat')
  t.is(source.looking, 1)
  one.close()
  await other.next<Heat>('heat')
  t.is(source.looking, 1)
  other.close()
  while (source.looking > 0) await sleep(5)
  t.is((await ask('/disks/99/events', known)).status, 404)
})

test('the number of pages that look is bounded', async t => {
  const { port, known, ask } = await served(t)
  const all = Array.from({ length: 16 }, () => new Events(port, '/events', known))
  t.teardown(() => {
    for (const events of all) events.close()
  })
  for (const events of all) await events.next('disks')
  t.is((await ask('/events', known)).status, 503)
  all.pop()?.close()
  while ((await statusOf(port, '/events', known)) === 503) await sleep(5)
  t.pass()
})

/** The status of a stream, which is closed at once. */
async function statusOf(port: number, path: string, headers: Record<string, string> = {}): Promise<number> {
  return await new Promise((resolve, reject) => {
    const sent = request({ port, path, headers }, response => {
      response.destroy()
      resolve(response.statusCode ?? 0)
    })
    sent.on('error', reject).end()
  })
}

/** A promise, and what fulfils it. */
function gate(): { promise: Promise<void>; open(): void } {
  let open = (): void => {}
  const promise = new Promise<void>(resolve => {
    open = resolve
  })
  return { promise, open: () => open() }
}

test('pages that come before the disks were read count, and those that have gone by then do not', async t => {
  t.timeout(60_000)
  const { port, known, source, dashboard } = await served(t)
  let held = gate()
  source.readable = held.promise
  using early = new Arrivals()
  // They are gone before they were answered.
  const sent = Array.from({ length: 20 }, () => request({ port, path: '/events', headers: known }))
  for (const each of sent) each.on('error', () => {}).end()
  const answers = await early.wait(sent.length)
  for (const each of sent) each.destroy()
  await Promise.all(answers.map(left))
  held.open()
  t.is(await statusOf(port, '/events', known), 200)
  t.is(await statusOf(port, '/disks/0/events', known), 200)

  await dashboard.close()
  const again = await served(t)
  held = gate()
  again.source.readable = held.promise
  using late = new Arrivals()
  const statuses = Array.from(
    { length: 20 },
    async () =>
      await new Promise<number>((resolve, reject) => {
        const one = request({ port: again.port, path: '/events', headers: again.known }, response => {
          response.resume().on('error', () => {})
          resolve(response.statusCode ?? 0)
        })
        one.on('error', reject).end()
      }),
  )
  await late.wait(statuses.length)
  held.open()
  const all = await Promise.all(statuses)
  t.is(all.filter(status => status === 200).length, 16)
})

test('a page that begins to look when the last one leaves is told where its disk is used', async t => {
  t.timeout(60_000)
  const { port, known, source } = await served(t)
  using arrivals = new Arrivals()
  const one = new Events(port, '/disks/0/events', known)
  await one.next<Disk>('disk')
  const held = gate()
  source.statable = held.promise
  const other = new Events(port, '/disks/0/events', known)
  t.teardown(() => other.close())
  const [answer] = await arrivals.wait(2)
  one.close()
  if (answer) await left(answer)
  held.open()
  await other.next<Disk>('disk')
  t.is(source.looking, 1)
  await other.next<Heat>('heat')
})

test('nothing is counted for a page whose disk cannot be looked at', async t => {
  t.timeout(60_000)
  const { port, known, source } = await served(t)
  const failed = Promise.reject(new Error('no stack'))
  failed.catch(() => {})
  source.statable = failed
  t.is(await statusOf(port, '/disks/0/events', known), 500)
  while (source.looking > 0) await sleep(5)
  source.statable = Promise.resolve()
  t.is(await statusOf(port, '/disks/0/events', known), 200)
})

test('a file system that does not answer holds up no page', async t => {
  t.timeout(60_000)
  const { port, known, source } = await served(t)
  const disk = new Events(port, '/disks/0/events', known)
  await disk.next<Disk>('disk')
  source.statable = new Promise(() => {})
  const all = new Events(port, '/events', known)
  const late = new Events(port, '/disks/2/events', known)
  t.teardown(() => {
    for (const events of [disk, all, late]) events.close()
  })
  await all.next<Disks>('disks')
  for (let ticks = 0; ticks < 5; ticks++) await all.next<Tick>('tick')
  await disk.next<Heat>('heat')
  t.deepEqual((await late.next<Disk>('disk')).detail.stack, [])
})

test('another disk that has got the number of an earlier one is told as what it is', async t => {
  t.timeout(60_000)
  const { port, known, source } = await served(t)
  const all = new Events(port, '/events', known)
  t.teardown(() => all.close())
  await all.next<Disks>('disks')
  source.generation = 2
  let about: Tick['about'] = []
  while (about.length === 0) ({ about } = await all.next<Tick>('tick'))
  t.is(about[0]?.source, '/srv/images/disk-0-2.img')
})

test('a page that does not read misses events, and gets all anew when it reads again', async t => {
  let stream: Stream | undefined
  let response: ServerResponse | undefined
  let begun = 0
  const server = createServer((_, made) => {
    response = made
    stream = new Stream(made, () => [['disks', `${++begun}`]])
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const events = new Events((server.address() as AddressInfo).port, '/', {})
  t.teardown(() => events.close())
  t.is(await events.next('disks'), 1)
  events.pause()
  const text = JSON.stringify('x'.repeat(2 ** 16))
  for (let sent = 0; sent < 500; sent++) {
    stream?.send('tick', text)
    t.true((response?.writableLength ?? 0) < 2 ** 20 + 2 ** 17)
    if (sent % 20 === 0) await sleep(1)
  }
  // The kernel takes some megabytes for it.
  const before = begun
  t.true((response?.writableLength ?? 0) > 2 ** 20)
  events.resume()
  while ((await events.next<number>('disks')) <= before) {}
  t.is(begun, before + 1)
  stream?.send('tick', '17')
  t.is(await events.next('tick'), 17)
})

test('when the dashboard ends, so do its pages', async t => {
  const { port, known, dashboard } = await served(t)
  const events = new Events(port, '/events', known)
  await events.next('disks')
  await dashboard.close()
  while (!events.ended) await sleep(5)
  t.pass()
})

test('a port that is taken is told in one line', async t => {
  const { port } = await served(t)
  const listen = Dashboard.listen(new MadeUp(1), { port, mayChange: false })
  await t.throwsAsync(listen, { message: /^cannot listen at 127\.0\.0\.1:\d+: .*EADDRINUSE/ })
})

test('disks that cannot be read are told in one line', async t => {
  const readings = await new MadeUp(500).read()
  t.is(
    untold(readings, true),
    '6 of 500 disks cannot be read (ublkb13, ublkb110, ublkb207 and others): nobody can be asked about device 13',
  )
  t.is(
    untold(readings.slice(0, 20), false),
    '1 of 20 disks cannot be read (ublkb13): their servers answer their own user and root',
  )
  t.is(untold(readings.slice(0, 5), false), undefined)
})
