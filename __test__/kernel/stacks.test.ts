// processors: 1 and 2
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Backend, concat, file, memory, nullDisk, slice, stripe, UblkDevice, worker } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { errorsOf } from '../support/devices.js'
import { kernelHas } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'
import { verify } from '../support/verify.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const MIB = 2 ** 20
const DIR = mkdtempSync('/dev/shm/stacks-')
const [A, B, C] = ['a', 'b', 'c'].map(name => join(DIR, name)) as [string, string, string]

test.beforeEach('files with known bytes', () =>
  sh('cd "$1"; for f in a b c; do head -c 8M /dev/urandom >$f; done', DIR),
)
test.after.always(() => rmSync(DIR, { recursive: true }))

/** The bytes that a stripe of two files has. */
function interleaved(chunk: number): Buffer {
  const files = [readFileSync(A), readFileSync(B)]
  const row = (at: number): Buffer[] => files.map(each => each.subarray(at, at + chunk))
  return Buffer.concat(Array.from({ length: (8 * MIB) / chunk }, (_, number) => row(number * chunk)).flat())
}

const read = (path: string): Buffer => readFileSync(path)

/** Each stack, and the bytes that it has to have. */
const stacks: Record<string, [make: () => Backend, bytes: () => Buffer]> = {
  stripe: [() => stripe([file(A), file(B)], { chunk: '64K' }), () => interleaved(64 * 1024)],
  concat: [
    () => concat([file(A), slice(file(B), { offset: '1M' })]),
    () => Buffer.concat([read(A), read(B).subarray(MIB)]),
  ],
  slice: [
    () => slice(concat([slice(file(A), { offset: '4M' }), file(B)]), { offset: '512K', size: '8M' }),
    () => Buffer.concat([read(A).subarray(4 * MIB), read(B)]).subarray(MIB / 2, 8.5 * MIB),
  ],
}

const ways = [
  { queues: 2, transport: 'per-io', copy: 'zero' },
  { queues: 1, transport: 'per-io', copy: 'copy' },
  { queues: 1, transport: 'batch', copy: 'zero' },
  { queues: 2, transport: 'batch', copy: 'copy' },
] as const

for (const [name, [make, bytes]] of Object.entries(stacks)) {
  for (const way of ways.filter(kernelHas)) {
    ;(way.queues > 1 ? onTwo : test)(
      `a ${name} has the bytes of its files, and keeps what fio writes: ${Object.values(way).join(', ')}`,
      async t => {
        const outside = readFileSync(A).subarray(0, 4 * MIB)
        await using disk = await UblkDevice.create({ backend: make(), maxIo: '1M', ...way })
        const errors = errorsOf(disk)
        t.is((await disk.info()).copy, way.copy)
        const whole = await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum', disk.path)
        writeFileSync(C, bytes())
        t.is(whole, await sh('sha256sum <"$1"', C))
        await verify(disk.path, name === 'stripe' ? ['sequential-128', 'random-16'] : ['random-16'], '7m')
        if (name === 'slice')
          t.true(
            readFileSync(A)
              .subarray(0, 4 * MIB)
              .equals(outside),
            'what is before it is untouched',
          )
        t.deepEqual(errors, [])
      },
    )
  }
}

onTwo('a detached stripe survives SIGKILL and an upgrade under a checked load', async t => {
  const disk = await Detached.create(`--stripe ${A},${B} --chunk 16K --recovery reissue --queues 2`)
  const load = result(
    shell(
      `cd "$2"; while [ ! -e stop ]; do
         fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-256k --size=12m \
           --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --output-format=terse >fio.out
       done`,
      disk.path,
      DIR,
    ),
  )
  await disk.changeServers(t)
  await sh('touch "$1/stop"', DIR)
  t.deepEqual(await load, SILENT)

  t.like(disk.record.options.backend, { kind: 'stripe', chunk: 16384, disks: [{ path: A }, { path: B }] })
  const list = JSON.parse((await run('list', '--json')).stdout).ublkdevices[0]
  t.like(list, { backend: 'stripe', source: `${A}, ${B}, chunk 16K`, stack: { kind: 'stripe' } })
  const { stdout } = await run('show', '--output', 'STACK', disk.path)
  t.is(stdout, `STACK  stripe chunk 16K\n       ├─ file ${A}\n       └─ file ${B}\n`)

  // Another file in the place of the second is found before anything is read from it.
  await disk.signal('SIGKILL')
  await sh('cd "$1"; mv b kept; cp kept b', DIR)
  const refused = await run('recover', disk.path)
  t.is(refused.status, 1)
  t.regex(refused.stderr, /the disk's file was replaced: \S+\/b is inode/)
  await sh('cd "$1"; mv kept b', DIR)
  t.is((await run('recover', disk.path)).status, 0)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('a supervised concat gets a new server when its own is killed', async t => {
  const disk = await Detached.create(`--concat ${A},${B} --recovery reissue --auto-restart`)
  const { pid } = disk
  await disk.signal('SIGKILL')
  await until(() => disk.pid !== pid, 'another server')
  await sh('cat "$2/a" "$2/b" | cmp - "$1"', disk.path, DIR)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('files on a stripe are there when it is made again', async t => {
  const create = `create --stripe ${A},${B} --detach`.split(' ')
  const path = (await run(...create)).stdout.trim()
  await sh(
    `mkdir "$2/mnt"; mkfs.ext4 -q "$1"; mount "$1" "$2/mnt"; cd "$2/mnt"
     for i in 1 2 3; do head -c 1M /dev/urandom >$i; done; sha256sum 1 2 3 >../sums; cd ..; umount mnt`,
    path,
    DIR,
  )
  t.deepEqual(await run('delete', path), SILENT)
  t.is((await run(...create)).status, 0)
  await sh(
    'e2fsck -fn "$1"; mount "$1" "$2/mnt"; cd "$2/mnt"; sha256sum --quiet -c ../sums; cd ..; umount mnt',
    path,
    DIR,
  )
  t.deepEqual(await run('delete', path), SILENT)
})

test('a part of a file is a disk, and two parts of one file can be in one stack', async t => {
  const before = readFileSync(A)
  const part = await Detached.create(`--file ${A} --offset 1M --sizelimit 2M`)
  t.is((await sh('blockdev --getsize64 "$1"', part.path)).trim(), `${2 * MIB}`)
  await sh('dd if=/dev/zero of="$1" bs=1M oflag=direct status=none 2>/dev/null || :', part.path)
  t.deepEqual(await run('delete', part.path), SILENT)
  t.true(
    readFileSync(A).equals(
      Buffer.concat([before.subarray(0, MIB), Buffer.alloc(2 * MIB), before.subarray(3 * MIB)]),
    ),
  )

  const backend = concat([slice(file(A), { offset: '4M' }), slice(file(A), { size: '4M' })])
  const whole = await UblkDevice.create({ backend })
  t.is(
    await sh('dd if="$1" bs=1M status=none | sha256sum', whole.path),
    await sh('cd "$1"; { tail -c 4M a; head -c 4M a; } | sha256sum', DIR),
  )
  // The claim is on the whole file.
  await t.throwsAsync(UblkDevice.create({ backend: file(A) }), { message: /is in use: / })
  await whole.delete()
  await (await UblkDevice.create({ backend: file(A) })).delete()
})

test('what cannot be put together is said in one line', async t => {
  await sh('truncate -s 3M "$1/small"', DIR)
  const small = join(DIR, 'small')
  const url = new URL('../backends/memory.js', import.meta.url)
  // biome-ignore lint/suspicious/noExplicitAny: wrong on purpose
  const wrong: [string, any, RegExp][] = [
    [
      'sizes',
      stripe([file(A), file(small)]),
      /disks have different sizes: 8388608 bytes, and 3145728 for number 2/,
    ],
    ['a chunk', stripe([file(A), file(B)], { chunk: 1000 }), /chunk 1000 is not possible/],
    [
      'a chunk that does not divide',
      stripe([file(A), file(B)], { chunk: '3M' }),
      /no whole chunks of 3145728/,
    ],
    ['an offset', slice(file(A), { offset: '8M' }), /begins at byte 8388608, but the disk has 8388608 bytes/],
    ['a size', slice(file(A), { offset: '7M', size: '2M' }), /ends beyond the disk, which has 8388608 bytes/],
    ['half a block', slice(file(A), { offset: 1000 }), /offset 1000 is not a multiple of the block size 512/],
    [
      'the same file',
      stripe([file(A), file(A)]),
      /disks 1 and 2 of the stripe have the same bytes of \S+\/a/,
    ],
    ['a Worker', concat([worker(url) as never]), /a disk written in JavaScript cannot be below a concat/],
    [
      'an object',
      slice({ size: 512, read: () => {} } as never),
      /a disk written in JavaScript cannot be below a slice/,
    ],
    ['a lazy disk', slice({ kind: 'lazy' } as never), /a lazy disk cannot be below a slice/],
  ]
  for (const [what, backend, message] of wrong) {
    const error = await t.throwsAsync(UblkDevice.create({ backend }), { message }, what)
    t.false(error?.message.includes('\n'), what)
  }
  const { status, stderr } = await run('create', '--stripe', `${A},${small}`)
  t.is(status, 2)
  t.regex(
    stderr,
    /^ublk-ts: the stripe's disks have different sizes.*; make it of disks of one size, for instance of slices\n$/,
  )
})

test('any stack of memory works, and a stack given as JSON outlives its server', async t => {
  const nested = stripe([
    concat([memory('1M'), nullDisk('1M')]),
    slice(memory('4M'), { offset: '1M', size: '2M' }),
  ])
  await using disk = await UblkDevice.create({ backend: nested, observe: () => {} })
  t.is(disk.size, 4 * MIB)
  await sh('dd if=/dev/urandom of="$1" bs=64k count=8 oflag=direct status=none', disk.path)

  const json = JSON.stringify({
    kind: 'concat',
    disks: [
      { kind: 'memory', size: '1M' },
      { kind: 'file', path: A },
    ],
  })
  const { stdout, stderr } = await run('create', '--detach', '--recovery', 'reissue', '--backend', json)
  t.is(stderr, '')
  const lasting = new Detached(stdout.trim())
  await sh(
    'head -c 1M /dev/urandom >"$2/c"; dd if="$2/c" of="$1" bs=1M oflag=direct status=none',
    lasting.path,
    DIR,
  )
  await lasting.signal('SIGKILL')
  t.deepEqual(await run('recover', lasting.path), { ...SILENT, stdout: `${lasting.path}\n` })
  await sh('cmp -n 1048576 "$1" "$2/c"', lasting.path, DIR)
  t.deepEqual(await run('delete', lasting.path), SILENT)
})
