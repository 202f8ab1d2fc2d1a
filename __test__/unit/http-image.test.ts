import test from 'ava'
import { type HttpImage, openHttpImage, shownUrl } from '../../dist/backends/http-image.js'
import { UblkError } from '../../dist/errors.js'
import { ImageServer, imageBytes } from '../support/image-server.js'

const forever = new AbortController().signal

const part = (image: HttpImage, offset: number, length: number, signal = forever): Promise<Uint8Array> =>
  Promise.resolve(image.fetch({ offset, length, signal }))

test('an image says its size and version, and is read in parts', async t => {
  await using server = await ImageServer.start({ size: 1_000_000 })
  const image = await openHttpImage(server.url, forever)
  t.is(image.size, 1_000_448, 'whole sectors')
  t.is(image.identity, `${server.url} "one" 1000000`)
  t.deepEqual(Buffer.from(await part(image, 4096, 8192)), imageBytes(4096, 8192))
  const last = Buffer.from(await part(image, 999_936, 512))
  t.deepEqual(last, Buffer.concat([imageBytes(999_936, 64), Buffer.alloc(448)]), 'what is missing is zeroes')
})

test('a redirect is followed, and a query or password is no part of the identity', async t => {
  await using server = await ImageServer.start()
  const { host } = new URL(server.url)
  const image = await openHttpImage(`http://user:secret@${host}/moved?signature=1`, forever)
  t.is(image.identity, `http://${host}/moved "one" ${2 ** 26}`)
  t.is((await part(image, 0, 512)).length, 512)
  t.is(shownUrl('https://user:secret@example.org/a.img?key=1'), 'https://example.org/a.img')
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
    await t.throwsAsync(openHttpImage(server.url, forever), { instanceOf: UblkError, message })
  }
  await t.throwsAsync(openHttpImage('http://127.0.0.1:1/image', forever), {
    message: /ECONNREFUSED|bad port/,
  })
})

test('a busy server and a broken connection are tried again, a few times', async t => {
  await using server = await ImageServer.start({ busy: 2 })
  const image = await openHttpImage(server.url, forever)
  await server.set({ short: 2 })
  t.deepEqual(Buffer.from(await part(image, 0, 65536)), imageBytes(0, 65536))
  await server.done()
  await server.set({ busy: 1000 })
  await t.throwsAsync(part(image, 0, 512), { message: /503/, code: 'EIO' })
  t.is((await server.done()).requests, 5)
})

test('an image that has changed is an error at once', async t => {
  for (const etag of ['"one"', 'W/"one"', '']) {
    await using server = await ImageServer.start({ etag })
    const image = await openHttpImage(server.url, forever)
    await part(image, 0, 512)
    await server.done()
    await server.set(etag === '' ? { size: 2 ** 25 } : { etag: '"two"' })
    await t.throwsAsync(part(image, 0, 512), { message: /has changed/, code: 'ESTALE' }, etag)
    t.is((await server.done()).requests, 1)
    t.not((await openHttpImage(server.url, forever)).identity, image.identity)
  }
})

test('not more than eight requests are under way at a time', async t => {
  await using server = await ImageServer.start()
  const image = await openHttpImage(server.url, forever)
  await Promise.all(Array.from({ length: 50 }, (_, at) => part(image, at * 4096, 4096)))
  const { requests, atOnce } = await server.done()
  t.is(requests, 51)
  t.true(atOnce > 1 && atOnce <= 8, `${atOnce}`)
})

test('a request that is not wanted any more ends at once', async t => {
  await using server = await ImageServer.start()
  const image = await openHttpImage(server.url, forever)
  await server.set({ silent: true })
  const began = performance.now()
  await t.throwsAsync(part(image, 0, 512, AbortSignal.timeout(100)), { any: true })
  t.true(performance.now() - began < 5000)
})
