// processors: 1 and 2
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { file, memory, nullDisk, overlay, tracked, UblkDevice, worker } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { kernelHas } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { result, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const SIZE = 32 * 2 ** 20
const inFile = new URL('../backends/in-file.js', import.meta.url)

/** Serves a disk in a process of its own, with `backend` as the text of an expression. */
async function serve(backend: string, options = "recovery: 'reissue'"): Promise<Server> {
  return await Server.program(`
    import { file, memory, nullDisk, UblkDevice, worker } from 'ublk-ts'
    const disk = await UblkDevice.create({ backend: ${backend}, queues: 2, ${options} })
    console.log(disk.path)
  `)
}

/** A directory in memory, which survives the process that uses it. */
async function inDirectory(action: (dir: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync('/dev/shm/takeover-')
  try {
    await action(dir)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

const kinds = {
  'in a memory file': (dir: string) => ({
    text: `memory(${SIZE}, { file: '${dir}/disk' })`,
    make: () => memory(SIZE, { file: `${dir}/disk` }),
  }),
  'in a file': (dir: string) => ({ text: `file('${dir}/disk')`, make: () => file(`${dir}/disk`) }),
  'written in JavaScript': (dir: string) => ({
    text: `worker('${inFile}', { path: '${dir}/disk', size: ${SIZE} })`,
    make: () => worker(inFile, { path: `${dir}/disk`, size: SIZE }),
  }),
}

for (const [kind, of] of Object.entries(kinds)) {
  onTwo(`a disk ${kind} outlives its killed server, and its file system goes on`, async t => {
    await inDirectory(async dir => {
      await sh('truncate -s "$2" "$1/disk"; mkdir "$1/mnt"', dir, `${SIZE}`)
      const { text, make } = of(dir)
      const server = await serve(text)
      await sh('mkfs.ext4 -q "$1"; mount "$1" "$2/mnt"; echo before >"$2/mnt/file"; sync', server.path, dir)
      const writer = result(
        shell('for i in $(seq 50); do echo $i >"$1/mnt/$i"; sync -f "$1/mnt/$i"; done', dir),
      )
      await until(async () => (await sh('ls "$1/mnt" | wc -l', dir)) > '5', 'the writer is at it')
      await server.interrupt('SIGKILL')

      const disk = await UblkDevice.recover(server.id, { backend: make() })
      t.is(disk.path, server.path)
      t.deepEqual(await writer, { status: 0, signal: null, stdout: '', stderr: '' })
      await sh('test $(cat "$1/mnt/file") = before; test $(cat "$1/mnt/50") = 50; umount "$1/mnt"', dir)
      await sh('fsck.ext4 -fn "$1"', disk.path)
      await disk.delete()
    })
  })

  onTwo(`a disk ${kind} is handed to another process without a failed request`, async t => {
    await inDirectory(async dir => {
      await sh('truncate -s "$2" "$1/disk"', dir, `${SIZE}`)
      const { text, make } = of(dir)
      const disk = await UblkDevice.create({ backend: make(), queues: 2, recovery: 'requeue' })
      const load = result(
        shell(
          'cd "$2"; exec fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bs=4k --size=16m --loops=4 --verify=crc32c --output-format=terse',
          disk.path,
          dir,
        ),
      )
      await until(() => disk.stats().some(({ write }) => write.ops > 100), 'the load is at it')
      await disk.quiesce()
      t.is((await disk.info()).state, 'quiesced')
      const next = await Server.program(`
        import { file, memory, UblkDevice, worker } from 'ublk-ts'
        const disk = await UblkDevice.recover(${disk.id}, { backend: ${text} })
        console.log(disk.path)
      `)
      await disk.release()
      await t.throwsAsync(disk.resume(), { message: /is served by another process|was handed over/ })
      t.is((await disk.info()).pid, next.pid)
      const { status, stdout, stderr } = await load
      t.is(status, 0, stdout + stderr)
      await (await UblkDevice.open(disk.id)).delete()
      await next.ended
    })
  })
}

const resizable = {
  'in a memory file': kinds['in a memory file'],
  'in a file': kinds['in a file'],
  'that is tracked': (dir: string) => ({
    text: `tracked(file('${dir}/disk'), { map: '${dir}/map' })`,
    make: () => tracked(file(`${dir}/disk`), { map: `${dir}/map` }),
  }),
  'over a base': (dir: string) => ({
    text: `tracked(overlay(file('${dir}/disk'), { upper: '${dir}/upper' }), { map: '${dir}/map' })`,
    make: () => tracked(overlay(file(`${dir}/disk`), { upper: `${dir}/upper` }), { map: `${dir}/map` }),
  }),
}

test('a disk that another server has grown is taken back with its new size', async t => {
  for (const [kind, of] of Object.entries(resizable)) {
    await inDirectory(async dir => {
      await sh('truncate -s "$2" "$1/disk"', dir, `${SIZE}`)
      const { text, make } = of(dir)
      const disk = await UblkDevice.create({ backend: make(), recovery: 'reissue' })
      await disk.quiesce()
      const next = await Server.program(`
        import { file, memory, overlay, tracked, UblkDevice } from 'ublk-ts'
        const disk = await UblkDevice.recover(${disk.id}, { backend: ${text} })
        await disk.resize(${2 * SIZE})
        console.log(disk.path)
      `)
      await next.interrupt('SIGKILL')
      await disk.resume()
      t.is((await disk.info()).size, 2 * SIZE, kind)
      const end = `${(2 * SIZE) / 2 ** 20 - 1}`
      const added = 'dd if="$1" bs=1M skip="$2" iflag=direct status=none | md5sum'
      t.is(await sh(added, disk.path, end), await sh('head -c 1M /dev/zero | md5sum'), kind)
      await sh('dd if=/dev/urandom of="$1" bs=1M seek="$2" count=1 oflag=direct status=none', disk.path, end)
      t.not(await sh(added, disk.path, end), await sh('head -c 1M /dev/zero | md5sum'), kind)
      await disk.delete()
    })
  }
})

test('a quiesced device is served again by the same process', async t => {
  const disk = await UblkDevice.create({ backend: memory('16M'), recovery: 'requeue' })
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  await disk.quiesce()
  const reading = sh('head -c 5 "$1"', disk.path)
  await t.throwsAsync(disk.quiesce(), { message: `device ${disk.id} is not live` })
  await disk.resume()
  t.is(await reading, 'hello')
  await disk.delete()
})

test('what cannot be taken over is left as it is', async t => {
  const plain = await UblkDevice.create({ backend: memory('16M') })
  await t.throwsAsync(plain.quiesce(), { message: 'the device cannot be handed over' })
  await t.throwsAsync(UblkDevice.recover(plain.id, { backend: memory('16M') }), {
    message: `device ${plain.id} cannot be taken over`,
  })
  await plain.delete()
  await t.throwsAsync(UblkDevice.recover(plain.id, { backend: memory('16M') }), {
    message: `there is no ublk device ${plain.id}`,
  })

  const failing = await UblkDevice.create({ backend: memory('16M'), recovery: 'fail' })
  await t.throwsAsync(failing.quiesce(), { message: /it fails requests while nobody serves it/ })
  await failing.delete()

  const served = await serve(`memory(${SIZE})`)
  await t.throwsAsync(UblkDevice.recover(served.id, { backend: memory('16M') }), {
    message: `device ${served.id} is served by process ${served.pid}`,
  })
  await served.interrupt('SIGKILL')
  await inDirectory(async dir => {
    await sh('truncate -s 16M "$1/small"', dir)
    await t.throwsAsync(UblkDevice.recover(served.id, { backend: file(`${dir}/small`) }), {
      message: `the backend has 16777216 bytes, the disk ${SIZE}`,
    })
  })
  const disk = await UblkDevice.recover(served.id, { backend: nullDisk(SIZE) })
  await disk.delete()
})

const withZeroCopy = kernelHas({ transport: 'per-io', copy: 'zero' }) ? test : test.skip

withZeroCopy(
  'a disk with zero copy goes on only with what can do it; one that is copied, with others',
  async t => {
    await inDirectory(async dir => {
      await sh('truncate -s "$2" "$1/disk"', dir, `${SIZE}`)
      const other = worker(inFile, { path: `${dir}/disk`, size: SIZE })
      for (const copy of ['zero', 'copy'] as const) {
        const server = await serve(
          `file('${dir}/disk')`,
          `recovery: 'reissue', discard: false, copy: '${copy}'`,
        )
        await sh('echo "$2" | dd of="$1" conv=fsync status=none', server.path, copy)
        await server.interrupt('SIGKILL')
        if (copy === 'zero') {
          await t.throwsAsync(UblkDevice.recover(server.id, { backend: other }), {
            message: 'the disk was made with copy zero, which the backend cannot serve',
          })
        }
        const backend = copy === 'zero' ? file(`${dir}/disk`) : other
        const disk = await UblkDevice.recover(server.id, { backend })
        t.is((await disk.info()).copy, copy)
        t.is(
          await sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -n 1', disk.path),
          `${copy}\n`,
        )
        await disk.delete()
      }
    })
  },
)

onTwo('of two that take a device over at once, one does', async t => {
  const server = await serve(`nullDisk(${SIZE})`)
  await server.interrupt('SIGKILL')
  const recover = `
    import { nullDisk, UblkDevice } from 'ublk-ts'
    const disk = await UblkDevice.recover(${server.id}, { backend: nullDisk(${SIZE}) })
    console.log(disk.path)
  `
  const both = await Promise.allSettled([Server.program(recover), Server.program(recover)])
  const [winner, ...more] = both.flatMap(one => (one.status === 'fulfilled' ? [one.value] : []))
  t.deepEqual(more, [])
  const loser = both.find(one => one.status === 'rejected') as PromiseRejectedResult
  t.regex(String(loser.reason), new RegExp(`device ${server.id} is served by process ${winner?.pid}`))
  await (await UblkDevice.open(server.id)).delete()
  await winner?.ended
})

onTwo(
  'a disk on shared threads is taken over, let go of and served again, and its neighbour notices nothing',
  async t => {
    await inDirectory(async dir => {
      const make = () => memory(SIZE, { file: `${dir}/disk` })
      const server = await serve(
        `memory(${SIZE}, { file: '${dir}/disk' })`,
        "recovery: 'reissue', threads: 'shared'",
      )
      await server.interrupt('SIGKILL')
      const neighbour = await UblkDevice.create({
        backend: memory(`${MEBIBYTES}M`),
        queues: 2,
        threads: 'shared',
      })
      const disk = await UblkDevice.recover(server.id, { backend: make(), threads: 'shared' })
      const verified = verify(neighbour.path)
      for (let round = 0; round < 5; round++) {
        await disk.quiesce()
        const written = sh('dd if=/dev/urandom of="$1" bs=64k count=16 oflag=direct status=none', disk.path)
        await disk.resume()
        await written
      }
      await verified
      const serving = await sh(
        'cat /proc/$1/task/*/comm | grep -Ec "^ublk([0-9]+q|-shared)"',
        `${process.pid}`,
      )
      t.true(Number(serving) <= availableParallelism(), serving)
      await disk.delete({ force: true })
      await neighbour.delete({ force: true })
    })
  },
)
