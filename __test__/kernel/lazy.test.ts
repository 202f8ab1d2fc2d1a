import { once } from 'node:events'
import { createReadStream, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import {
  type DiskChange,
  type FetchRange,
  type LazyOptions,
  lazy,
  memory,
  UblkDevice,
  type UblkError,
} from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { result, sh, shell } from '../support/program.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const MIB = 2 ** 20
const dir = mkdtempSync(join(tmpdir(), 'lazy-'))
test.after.always(() => rmSync(dir, { recursive: true }))

/** Reads the block of 4 KiB at a mebibyte; what dd has to say about it. */
const read = async (path: string, mebibyte: number): Promise<string> =>
  (await result(shell(`dd if="$1" of=/dev/null bs=4k count=1 skip=${mebibyte * 256} iflag=direct`, path)))
    .stderr

/** A disk whose first fetch behind its first mebibyte is answered as told; the partition scan looks before that. */
const first = (answer: (range: FetchRange) => Uint8Array | Promise<Uint8Array>): LazyOptions['fetch'] => {
  let told = false
  return range => {
    if (told || range.offset < MIB) return new Uint8Array(range.length)
    told = true
    return answer(range)
  }
}

for (const cache of [undefined, join(dir, 'verify')]) {
  test(`what fio writes in mixed sizes is what it reads: ${cache ? 'cache in a file' : 'in memory'}`, async t => {
    let fetched = 0
    const backend = lazy({
      size: `${MEBIBYTES}M`,
      cache,
      chunk: '64K',
      fetch: async ({ length }) => {
        fetched += length
        return new Uint8Array(length)
      },
    })
    await using disk = await UblkDevice.create({ backend, queues: 2, maxIo: '1M' })
    disk.on('error', error => t.fail(error.message))
    await verify(disk.path)
    t.true(fetched > 0 && fetched <= MEBIBYTES * MIB)
  })
}

test('http-disk: an image on a web server is fetched once, as far as it is read, and outlives the process', async t => {
  const image = join(dir, 'image')
  await sh('truncate -s 64M "$1"; mkfs.ext4 -q -d dist "$1"', image)
  const original = readFileSync(image)
  let requests = 0
  let sent = 0
  const server = createServer((request, response) => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? []
    const headers = { 'accept-ranges': 'bytes', etag: '"one"' }
    if (from === undefined) {
      response.writeHead(200, { ...headers, 'content-length': statSync(image).size }).end()
      return
    }
    const [start, end] = [Number(from), Number(to)]
    requests++
    sent += end + 1 - start
    response.writeHead(206, { ...headers, 'content-length': end + 1 - start })
    createReadStream(image, { start, end }).pipe(response)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/image`
  const { httpDisk } = (await import(
    new URL('../examples/http-disk.js', import.meta.url).href
  )) as typeof import('../../examples/http-disk.js')
  try {
    const cache = join(dir, 'http')
    const on = async (script: string): Promise<string> => {
      await using disk = await UblkDevice.create({ backend: await httpDisk(url, cache) })
      disk.on('error', error => t.fail(error.message))
      return await sh(
        `mkdir -p /tmp/image; mount "$1" /tmp/image; ${script}; umount /tmp/image; fsck.ext4 -fn "$1" >&2`,
        disk.path,
      )
    }
    await on('diff -r -x lost+found dist /tmp/image; echo kept >/tmp/image/written')
    const before = requests
    t.true(before > 0 && sent < 32 * MIB, `${before} requests, ${sent} bytes`)
    t.is(await on('diff -r -x lost+found -x written dist /tmp/image; cat /tmp/image/written'), 'kept\n')
    t.is(requests, before, 'the second device finds all of it in the cache')
    t.true(readFileSync(image).equals(original), 'the image itself is never changed')
    await t.throwsAsync(
      UblkDevice.create({ backend: lazy({ size: 64 * MIB, cache, fetch: () => new Uint8Array() }) }),
      {
        message: /is of another disk/,
      },
    )
  } finally {
    server.closeAllConnections()
    server.close()
  }
})

test('a fetch that goes wrong is the error of its request, and is made again', async t => {
  const cases: [LazyOptions['fetch'], RegExp, RegExp][] = [
    [
      first(() => Promise.reject(Object.assign(new Error('gone'), { code: 'ENODATA' }))),
      /No data available/,
      /gone/,
    ],
    [first(() => new Uint8Array(5)), /Input\/output error/, /5 bytes were fetched, not the 131072/],
    [first(() => 'text' as unknown as Uint8Array), /Input\/output error/, /returned string/],
    [first(() => new Promise<never>(() => {})), /timed out/i, /within 300 ms/],
  ]
  for (const [fetch, said, message] of cases) {
    await using disk = await UblkDevice.create({ backend: lazy({ size: '16M', fetch, timeout: 300 }) })
    const told = once(disk, 'error') as Promise<[UblkError]>
    t.regex(await read(disk.path, 8), said)
    const [error] = await told
    t.regex(error.message, message)
    t.notRegex(await read(disk.path, 8), /error|timed out/i)
  }
})

test('a device whose fetch never ends is deleted by force, and its fetch aborted', async t => {
  let [asked, aborted] = [false, false]
  const fetch = first(({ signal }) => {
    asked = true
    return new Promise<never>((_, reject) =>
      signal.addEventListener('abort', () => {
        aborted = true
        reject(signal.reason)
      }),
    )
  })
  const disk = await UblkDevice.create({ backend: lazy({ size: '16M', fetch }) })
  disk.on('error', error => t.fail(error.message))
  const reading = read(disk.path, 8)
  while (!asked) await new Promise(resolve => setImmediate(resolve))
  await disk.delete({ force: true })
  t.true(aborted)
  t.regex(await reading, /error|No such device/)
})

test('a process that exits while a fetch is under way leaves nothing', async t => {
  const program = `import { UblkDevice, lazy } from 'ublk-ts'
    import { spawn } from 'node:child_process'
    const fetch = range => {
      if (range.offset < ${MIB}) return new Uint8Array(range.length)
      setTimeout(() => process.exit(7), 100)
      return new Promise(() => {})
    }
    const disk = await UblkDevice.create({ backend: lazy({ size: '16M', fetch }) })
    spawn('dd', ['if=' + disk.path, 'of=/dev/null', 'bs=4k', 'count=1', 'skip=2048', 'iflag=direct'])`
  const { status } = await result(shell('node --input-type=module -e "$1"', program))
  t.is(status, 7)
})

test('a cache serves one disk at a time', async t => {
  const options: LazyOptions = {
    size: '16M',
    cache: join(dir, 'shared'),
    fetch: ({ length }) => new Uint8Array(length),
  }
  await using disk = await UblkDevice.create({ backend: lazy(options) })
  await t.throwsAsync(UblkDevice.create({ backend: lazy(options) }), { message: /is in use/ })
  t.truthy(disk)
  writeFileSync(join(dir, 'short'), 'short')
  await t.throwsAsync(UblkDevice.create({ backend: lazy({ ...options, cache: join(dir, 'short') }) }), {
    message: /has 5 bytes/,
  })
})

test('an observer is told every change, and what it throws does no harm', async t => {
  const told: DiskChange[] = []
  const observe = (changes: readonly DiskChange[]): void => {
    told.push(...changes)
    if (told.length === 1) throw new Error('not today')
  }
  const disk = await UblkDevice.create({ backend: memory('16M'), observe })
  const error = once(disk, 'error') as Promise<[UblkError]>
  await sh(
    `dd if=/dev/zero of="$1" bs=4k count=1 seek=256 oflag=direct status=none
    blkdiscard -o 2M -l 1M "$1"; blkdiscard -z -o 4M -l 1M "$1"`,
    disk.path,
  )
  t.regex((await error)[0].message, /observer.*not today/)
  await disk.delete()
  const plain = { fua: false, meta: false, failFast: false, swap: false }
  t.deepEqual(told, [
    { op: 'write', offset: MIB, length: 4096, ...plain },
    { op: 'discard', offset: 2 * MIB, length: MIB, ...plain },
    { op: 'writeZeroes', offset: 4 * MIB, length: MIB, ...plain },
  ])
})
