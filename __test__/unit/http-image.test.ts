import { execFile } from 'node:child_process'
import { createServer as createHttp } from 'node:http'
import { createServer, globalAgent } from 'node:https'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import test from 'ava'
import { type HttpImage, openHttpImage } from '../../dist/backends/http-image.js'
import { shownUrl } from '../../dist/backends/web-fetch.js'
import { type Answer, type Get, get } from '../../dist/backends/web-request.js'
import { UblkError } from '../../dist/errors.js'
import { ImageServer, imageBytes } from '../support/image-server.js'

const forever = new AbortController().signal

const open = (url: string, timeout = 60_000): Promise<HttpImage> => openHttpImage(url, { timeout }, forever)

const part = (image: HttpImage, offset: number, length: number, signal = forever): Promise<Uint8Array> =>
  Promise.resolve(image.fetch({ offset, length, signal }))

test('an image says its size and version, and is read in parts', async t => {
  await using server = await ImageServer.start({ size: 1_000_000 })
  const image = await open(server.url)
  t.is(image.size, 1_000_448, 'whole sectors')
  t.is(image.identity, `${server.url} "one" 1000000`)
  t.deepEqual(Buffer.from(await part(image, 4096, 8192)), imageBytes(4096, 8192))
  const last = Buffer.from(await part(image, 999_936, 512))
  t.deepEqual(last, Buffer.concat([imageBytes(999_936, 64), Buffer.alloc(448)]), 'what is missing is zeroes')
})

test('its first part comes with its size, and is not asked for again at once', async t => {
  for (const [size, length] of [
    [2 ** 20, 65_536],
    [1000, 1024],
  ] as const) {
    await using server = await ImageServer.start({ size })
    const image = await openHttpImage(server.url, { timeout: 60_000, first: 65_536 }, forever)
    t.is(image.size, Math.ceil(size / 512) * 512)
    const expected = Buffer.concat([imageBytes(0, Math.min(size, length)), Buffer.alloc(length)])
    for (const requests of [1, 2]) {
      t.deepEqual(Buffer.from(await part(image, 0, length)), expected.subarray(0, length))
      t.is((await server.done()).requests, 1, `fetch ${requests}`)
    }
  }
  await using server = await ImageServer.start({ shifted: 512 })
  const shifted = openHttpImage(server.url, { timeout: 60_000, first: 4096 }, forever)
  await t.throwsAsync(shifted, { message: /does not say how large the image is$/ })
})

test('a server that takes 0 as the end of a part for no end, as that of busybox does, is never asked so', async t => {
  await using server = await ImageServer.start({ zeroIsNoEnd: true })
  const image = await open(server.url)
  t.deepEqual(Buffer.from(await part(image, 0, 4096)), imageBytes(0, 4096))
})

test('a redirect is followed, and a query or password is no part of the identity', async t => {
  await using server = await ImageServer.start()
  const { host } = new URL(server.url)
  const image = await open(`http://user:secret@${host}/moved?signature=1`)
  t.is(image.identity, `http://${host}/moved "one" ${2 ** 26}`)
  t.is((await part(image, 0, 512)).length, 512)
  t.is(shownUrl('https://user:secret@example.org/a.img?key=1'), 'https://example.org/a.img')
})

test('without a version the query is a part of the identity', async t => {
  await using server = await ImageServer.start({ etag: '' })
  const [one, same, other] = await Promise.all(['a', 'a', 'b'].map(name => open(`${server.url}?of=${name}`)))
  t.is(one?.identity, same?.identity)
  t.not(one?.identity, other?.identity)
  t.notRegex(one?.identity ?? '', /of=/)
})

test('what cannot be read in parts is refused in one line', async t => {
  await using server = await ImageServer.start()
  const cases: [Parameters<ImageServer['set']>[0], RegExp][] = [
    [{ whole: true }, /^cannot use http:\/\/127\.0\.0\.1:\d+\/image: the server has no range requests$/],
    [{ whole: false, status: 404 }, /the server answers 404 Not Found$/],
    [{ status: 403 }, /the server answers 403 Forbidden$/],
  ]
  for (const [behaviour, message] of cases) {
    await server.set(behaviour)
    await t.throwsAsync(open(server.url), { instanceOf: UblkError, message })
  }
  await t.throwsAsync(open('http://127.0.0.1:1/image'), {
    message: /ECONNREFUSED|bad port/,
  })
})

test('a busy server and a broken connection are tried again, a few times', async t => {
  await using server = await ImageServer.start({ busy: 2 })
  const image = await open(server.url)
  await server.set({ short: 2 })
  t.deepEqual(Buffer.from(await part(image, 0, 65536)), imageBytes(0, 65536))
  await server.done()
  await server.set({ busy: 1000 })
  await t.throwsAsync(part(image, 4096, 512), { message: /503/, code: 'EIO' })
  t.is((await server.done()).requests, 5)
})

test('an image that has changed is an error at once', async t => {
  for (const etag of ['"one"', 'W/"one"', '']) {
    await using server = await ImageServer.start({ etag })
    const image = await open(server.url)
    await part(image, 0, 512)
    await server.done()
    await server.set(etag === '' ? { size: 2 ** 25 } : { etag: '"two"' })
    await t.throwsAsync(part(image, 4096, 512), { message: /has changed/, code: 'ESTALE' }, etag)
    t.is((await server.done()).requests, 1)
    t.not((await open(server.url)).identity, image.identity)
  }
})

test('a request that is not wanted any more ends at once', async t => {
  await using server = await ImageServer.start()
  const image = await open(server.url)
  await server.set({ silent: true })
  const began = performance.now()
  await t.throwsAsync(part(image, 4096, 512, AbortSignal.timeout(100)), { any: true })
  t.true(performance.now() - began < 5000)
})

test('a server that lies about a part costs an error, and no more memory than the part', async t => {
  await using server = await ImageServer.start()
  const image = await open(server.url)
  const cases: [Parameters<ImageServer['set']>[0], RegExp][] = [
    [{ shifted: 512 }, /sends another part than bytes=4096-69631$/],
    [{ shifted: 0, coding: 'gzip' }, /sends the image compressed$/],
    [{ coding: '', endless: true }, /sends more than the 65536 bytes asked for$/],
    [{ endless: false, status: 204 }, /the server answers 204$/],
  ]
  for (const [behaviour, message] of cases) {
    await server.set(behaviour)
    await t.throwsAsync(part(image, 4096, 65536), { message, code: 'EIO' })
  }
  await server.set({ status: 0 })
  t.deepEqual(Buffer.from(await part(image, 4096, 65536)), imageBytes(4096, 65536))
})

test('a server that falls silent is given up, when it is opened and when it is read', async t => {
  await using server = await ImageServer.start()
  const image = await open(server.url, 400)
  await server.set({ stalls: true })
  await t.throwsAsync(part(image, 0, 65536), { message: /sent nothing for 100 ms/, code: 'EIO' })
  await server.set({ silent: true })
  await t.throwsAsync(open(server.url, 400), {
    instanceOf: UblkError,
    message: /^cannot use http:\/\/127\.0\.0\.1:\d+\/image: no answer within 400 ms$/,
  })
})

/** A web of redirects, and the requests that are made to it. */
function redirecting(web: Readonly<Record<string, string>>): {
  asked: [string, string | undefined][]
  open: (url: string) => Promise<HttpImage>
} {
  const asked: [string, string | undefined][] = []
  const get: Get = async ({ href }, { authorization }) => {
    asked.push([href, authorization])
    const location = web[href]
    const answer =
      location === undefined
        ? { statusCode: 206, headers: { 'content-range': 'bytes 0-511/512' } }
        : { statusCode: 302, headers: { location } }
    return Object.assign(Readable.from([Buffer.alloc(512)]), answer) as unknown as Answer
  }
  return { asked, open: url => openHttpImage(url, { timeout: 60_000 }, forever, get) }
}

test('each redirect is checked, not only the last address', async t => {
  const { asked, open } = redirecting({
    'https://example.org/image': 'http://example.org/image',
    'http://example.org/image': 'https://example.org/other',
    'https://example.org/a': '/a',
    'https://example.org/b': 'ftp://example.org/b',
  })
  await t.throwsAsync(open('https://example.org/image'), { message: /redirects from https to http$/ })
  t.is(asked.length, 1, 'nothing was sent in the clear')
  await t.throwsAsync(open('https://example.org/a'), { message: /redirects more than 5 times$/ })
  t.is(asked.length, 7)
  await t.throwsAsync(open('https://example.org/b'), {
    message: /redirects to ftp:, not to http: or https:$/,
  })
})

test('a redirect to another server carries no password', async t => {
  const { asked, open } = redirecting({
    'http://example.org/image': '/moved',
    'http://example.org/moved': 'https://user:other@example.net/image',
  })
  await open('http://user:secret@example.org/image')
  const secret = `Basic ${Buffer.from('user:secret').toString('base64')}`
  t.deepEqual(asked, [
    ['http://example.org/image', secret],
    ['http://example.org/moved', secret],
    ['https://example.net/image', undefined],
  ])
})

test('a server with TLS is read if its certificate is trusted', async t => {
  const certificate = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
  const { stdout: pem } = await promisify(execFile)('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
    ...['-keyout', '-', '-out', '-', ...certificate],
  ])
  const server = createServer({ key: pem, cert: pem }, (_, response) => {
    response.writeHead(206, { 'content-range': 'bytes 0-511/512' }).end(Buffer.alloc(512))
  })
  t.teardown(() => server.close())
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `https://localhost:${(server.address() as AddressInfo).port}/image`
  await t.throwsAsync(open(url), { message: /: self-signed certificate$/ })
  t.teardown(() => delete globalAgent.options.ca)
  globalAgent.options.ca = pem
  t.is((await open(url)).size, 512)
})

test('a connection that the server has closed meanwhile is no failure', async t => {
  const known = new Set<object>()
  const server = createHttp(({ socket }, response) => {
    if (known.has(socket)) return void socket.resetAndDestroy()
    known.add(socket)
    response
      .writeHead(206, { 'content-range': 'bytes 0-511/512', 'content-length': 512 })
      .end(Buffer.alloc(512))
  })
  t.teardown(() => server.close())
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/image`)
  for (const _ of [1, 2]) {
    const { statusCode } = await get(url, {}, forever).then(async answer => {
      for await (const _ of answer); // The connection is used again.
      return answer
    })
    t.is(statusCode, 206)
  }
  t.is(known.size, 2)
})

test('the first answer is not delayed by what `fetch` loads', async t => {
  await using server = await ImageServer.start()
  const module = JSON.stringify(new URL('../../dist/backends/http-image.js', import.meta.url))
  const script = `
    const { openHttpImage } = await import(${module})
    const { size } = await openHttpImage('${server.url}', { timeout: 10_000 }, new AbortController().signal)
    console.log(size, process.moduleLoadList.filter(name => /undici/.test(name)).join())
    process.exit()`
  const node = promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script])
  t.is((await node).stdout, `${2 ** 26} \n`)
})
