// processors: 1 and 2
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import {
  file,
  lazy,
  memory,
  type NativeBackend,
  overlay,
  qcow2,
  slice,
  stripe,
  tracked,
  UblkDevice,
} from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { errorsOf } from '../support/devices.js'
import { kernelHas } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'
import { writeImage } from '../support/qcow2-image.js'
import { verify } from '../support/verify.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const MIB = 2 ** 20
const SIZE = 24 * MIB
const DIR = mkdtempSync('/dev/shm/overlay-')
const BASE = join(DIR, 'base')
const at = (name: string): string => join(DIR, name)

let sum = ''
test.before('a base with a file system', async () => {
  await sh(
    `cd "$1"; mkdir mnt; truncate -s ${SIZE} base; mkfs.ext4 -q base; mount -o loop base mnt
     head -c 4M /dev/urandom >mnt/first; sha256sum mnt/first >sums; umount mnt`,
    DIR,
  )
  sum = await sh('sha256sum <"$1"', BASE)
})
test.after.always(() => rmSync(DIR, { recursive: true }))
test.afterEach.always('the base is as it was', async t => t.is(await sh('sha256sum <"$1"', BASE), sum))

onTwo('two disks share a base, and each has a file system of its own', async t => {
  const disks = await Promise.all(
    ['one', 'two'].map(name =>
      UblkDevice.create({ backend: overlay(file(BASE), { upper: at(name) }), queues: 2 }),
    ),
  )
  const errors = disks.flatMap(errorsOf)
  const use = async ({ path, id }: UblkDevice): Promise<void> => {
    await sh(
      `cd "$2"; mkdir mnt$3; mount "$1" mnt$3; sha256sum --quiet -c sums
       head -c 2M /dev/urandom >mnt$3/own; (cd mnt$3; sha256sum own) >own$3; rm mnt$3/first; fstrim mnt$3; umount mnt$3
       e2fsck -fn "$1"`.replace('-c sums', '-c <(sed s/mnt/mnt$3/ sums)'),
      path,
      DIR,
      `${id}`,
    )
  }
  await Promise.all(disks.map(use))
  const ids = disks.map(({ id }) => id)
  for (const disk of disks) await disk.delete()
  // Each is there with its own files when it is made again, and so is the base's for another disk.
  for (const [number, name] of ['one', 'two'].entries()) {
    await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper: at(name) }) })
    await sh(
      `cd "$2"; mount "$1" mnt; (cd mnt; test ! -e first; sha256sum --quiet -c ../own$3); umount mnt`,
      disk.path,
      DIR,
      `${ids[number]}`,
    )
  }
  await using third = await UblkDevice.create({ backend: overlay(file(BASE)) })
  await sh('cd "$2"; mount "$1" mnt; sha256sum --quiet -c sums; rm mnt/first; umount mnt', third.path, DIR)
  t.deepEqual(errors, [])
})

/** A disk of any kind of base and upper, and the copy modes that it has. */
const kinds: [what: string, make: (upper: string) => NativeBackend, copies: string[]][] = [
  ['a file upper', upper => overlay(file(BASE), { upper }), ['zero', 'copy']],
  ['an upper in memory', () => overlay(memory('16M')), ['copy', 'user']],
]
const ways = [
  { queues: 2, transport: 'per-io', copy: 'zero' },
  { queues: 1, transport: 'batch', copy: 'zero' },
  { queues: 2, transport: 'batch', copy: 'copy' },
  { queues: 1, transport: 'per-io', copy: 'user' },
] as const

for (const [what, make, copies] of kinds) {
  for (const way of ways.filter(way => kernelHas(way) && copies.includes(way.copy))) {
    ;(way.queues > 1 ? onTwo : test)(
      `an overlay with ${what} keeps what fio writes: ${Object.values(way).join(', ')}`,
      async t => {
        const upper = at(`fio-${way.transport}-${way.copy}`)
        await using disk = await UblkDevice.create({ backend: make(upper), maxIo: '1M', ...way })
        const errors = errorsOf(disk)
        t.is((await disk.info()).copy, way.copy)
        await verify(disk.path, ['random-16', 'sequential-128'], '12m')
        t.deepEqual(errors, [])
      },
    )
  }
}

test('what is discarded over base data reads as zeroes, takes no space, and stays so', async t => {
  const upper = at('discarded')
  const make = (): Promise<UblkDevice> =>
    UblkDevice.create({ backend: overlay(slice(file(BASE), { size: '16M' }), { upper }) })
  const content = async (path: string): Promise<Buffer> => {
    await sh('dd if="$1" of="$2" bs=1M iflag=direct status=none', path, at('content'))
    return readFileSync(at('content'))
  }
  const expected = Buffer.concat([readFileSync(BASE).subarray(0, 16 * MIB)])
  {
    await using disk = await make()
    await sh(
      `dd if=/dev/urandom of="$2" bs=1M count=4 status=none; dd if="$2" of="$1" bs=1M seek=2 oflag=direct status=none
       blkdiscard -o 3M -l 2M "$1"; blkdiscard -z -o 8M -l 1M "$1"; fallocate -p -o 512 -l 1024 "$1"`,
      disk.path,
      at('random'),
    )
    expected.set(readFileSync(at('random')), 2 * MIB)
    expected
      .fill(0, 3 * MIB, 5 * MIB)
      .fill(0, 8 * MIB, 9 * MIB)
      .fill(0, 512, 1536)
    t.true((await content(disk.path)).equals(expected))
  }
  const { blocks } = statSync(upper)
  t.true(blocks * 512 < 2.5 * MIB, `${blocks * 512} bytes for 2 MiB`)
  await using again = await make()
  t.true((await content(again.path)).equals(expected))
})

test('a disk can be larger than its base, and grow and shrink', async t => {
  const upper = at('resized')
  const read = async (path: string, mebibyte: number): Promise<string> =>
    await sh('dd if="$1" bs=1M skip=$2 count=1 iflag=direct status=none | sha256sum', path, `${mebibyte}`)
  const zeroes = await sh('head -c 1M /dev/zero | sha256sum')
  const base = await sh('dd if="$1" bs=1M skip=9 count=1 status=none | sha256sum', BASE)
  {
    await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper, size: '32M' }) })
    t.is(await read(disk.path, 9), base)
    t.is(await read(disk.path, 31), zeroes)
    await disk.resize('8M')
    await disk.resize('40M')
    t.is(await read(disk.path, 9), zeroes, 'it does not show the base again')
    t.is(await read(disk.path, 39), zeroes)
    await t.throwsAsync(disk.resize('8T'), { message: /the upper \S+ cannot describe 8796093022208 bytes/ })
  }
  await using again = await UblkDevice.create({ backend: overlay(file(BASE), { upper }) })
  t.is(again.size, 40 * MIB)
  t.is(await read(again.path, 9), zeroes)
})

for (const type of ['tmpfs', 'ext4']) {
  test(`an upper on a full ${type} fails writes with ENOSPC, keeps what it has, and goes on when there is room`, async t => {
    const dir = at(`full-${type}`)
    await sh(
      `mkdir "$1"; if [ $2 = tmpfs ]; then mount -t tmpfs -o size=8m none "$1"; else
         truncate -s 16M "$1.img"; mkfs.ext4 -q -m 0 "$1.img"; mount -o loop "$1.img" "$1"; fi
       free=$(($(stat -f -c '%a * %S' "$1"))); head -c $((free - 3145728)) /dev/zero >"$1/ballast"; sync`,
      dir,
      type,
    )
    try {
      const make = (): Promise<UblkDevice> =>
        UblkDevice.create({ backend: overlay(file(BASE), { upper: `${dir}/upper` }) })
      const expected = readFileSync(BASE)
      {
        await using disk = await make()
        await sh('head -c 6M /dev/urandom >"$1"', at('random'))
        // Blocks of 64 KiB, each at another place than in its order, until one fails.
        const write = (from: number, count: number): Promise<string> =>
          sh(
            `for i in $(seq $3 $4); do
               dd if="$2" of="$1" bs=64k skip=$i seek=$((i * 7 % 96)) count=1 oflag=direct status=none 2>"$5" || { echo $i; exit; }
             done; echo none`,
            disk.path,
            at('random'),
            `${from}`,
            `${from + count - 1}`,
            at('said'),
          )
        const failed = Number(await write(0, 96))
        t.true(failed > 20 && failed < 60, `number ${failed} is the first that fails`)
        t.regex(readFileSync(at('said'), 'utf8'), /No space left on device/)
        const random = readFileSync(at('random'))
        const put = (count: number): void => {
          for (let i = 0; i < count; i++) {
            expected.set(random.subarray(i << 16, (i + 1) << 16), ((i * 7) % 96) << 16)
          }
        }
        put(failed)
        // The block that failed has its old bytes or its new ones; all others are as they were.
        const hole = [((failed * 7) % 96) << 16, (((failed * 7) % 96) + 1) << 16] as const
        const content = async (): Promise<Buffer> => {
          await sh('dd if="$1" of="$2" bs=1M iflag=direct status=none', disk.path, at('content'))
          return readFileSync(at('content'))
        }
        const without = (bytes: Buffer): Buffer => Buffer.from(bytes).fill(0, ...hole)
        t.true(without(await content()).equals(without(expected)))
        rmSync(`${dir}/ballast`)
        t.is((await write(failed, 96 - failed)).trim(), 'none')
        put(96)
        await sh('dd if=/dev/null of="$1" bs=4k count=0 conv=fsync,notrunc status=none', disk.path)
        t.true((await content()).equals(expected))
        await disk.delete()
      }
      await using again = await make()
      await sh('dd if="$1" of="$2" bs=1M iflag=direct status=none', again.path, at('content'))
      t.true(readFileSync(at('content')).equals(expected))
    } finally {
      await sh('umount "$1"', dir)
    }
  })
}

/** fio writes and checks until there is a file `stop`. */
const LOAD = `cd "$2"; while [ ! -e stop ]; do
    fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=512-256k --size=12m \
      --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --fsync=64 --output-format=terse >fio.out
  done`

for (const upper of [at('killed'), 'memory']) {
  onTwo(
    `a detached overlay survives SIGKILL and an upgrade under a checked load: ${upper === 'memory' ? upper : 'a file'}`,
    async t => {
      const disk = await Detached.create(`--file ${BASE} --overlay ${upper} --recovery reissue --queues 2`)
      const load = result(shell(LOAD, disk.path, DIR))
      await disk.changeServers(t)
      await sh('touch "$1/stop"', DIR)
      t.deepEqual(await load, SILENT)
      rmSync(at('stop'))
      const shown = disk.record.options.backend
      t.like(shown, { kind: 'overlay', base: { kind: 'file', path: BASE } })
      const list = JSON.parse((await run('list', '--json')).stdout).ublkdevices[0]
      t.like(list, { backend: 'overlay', source: `${BASE}, ${shown.upper}, 24M` })
      const { stdout } = await run('show', '--output', 'STACK', disk.path)
      t.is(stdout, `STACK  overlay ${shown.upper}, 24M\n       └─ file ${BASE}\n`)
      t.deepEqual(await run('delete', disk.path), SILENT)
      t.is(existsSync(shown.upper), upper !== 'memory')
    },
  )
}

test('a base can be a lazy disk, a qcow2 image or another overlay, and a stripe can be made of overlays', async t => {
  const sameAs = async (path: string, other: string, size: string): Promise<void> => {
    await sh('cmp -n "$3" "$1" "$2"', path, other, size)
    t.pass()
  }
  const filled = lazy({ source: BASE, cache: at('cache') })
  {
    await using disk = await UblkDevice.create({ backend: overlay(filled, { upper: at('over-lazy') }) })
    await sameAs(disk.path, BASE, `${SIZE}`)
    t.is((await disk.lazyProgress())?.present, SIZE)
    await verify(disk.path, ['random-16'], '4m')
  }
  {
    writeImage(at('image'), 16 * MIB)
    await using image = await UblkDevice.create({ backend: qcow2(at('image')) })
    await sh('head -c 16M "$2" | dd of="$1" bs=1M iflag=fullblock oflag=direct status=none', image.path, BASE)
    await image.delete()
    const before = await sh('sha256sum <"$1"', at('image'))
    await using disk = await UblkDevice.create({
      backend: overlay(qcow2(at('image')), { upper: at('over-image') }),
    })
    await sameAs(disk.path, BASE, `${16 * MIB}`)
    await verify(disk.path, ['random-16'], '4m')
    await disk.delete()
    t.is(await sh('sha256sum <"$1"', at('image')), before)
  }
  {
    await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper: at('below') }) })
    await sh('dd if=/dev/urandom of="$1" bs=1M count=4 seek=1 oflag=direct status=none', disk.path)
    await sh('dd if="$1" of="$2" bs=1M iflag=direct status=none', disk.path, at('expected'))
  }
  const below = overlay(file(BASE), { upper: at('below') })
  await using one = await UblkDevice.create({ backend: overlay(below, { upper: at('above') }) })
  await using two = await UblkDevice.create({ backend: overlay(below) })
  for (const { path } of [one, two]) {
    await sameAs(path, at('expected'), `${SIZE}`)
    await sh('dd if=/dev/zero of="$1" bs=1M count=2 seek=2 oflag=direct status=none', path)
  }
  await one.delete()
  await two.delete()
  const half = (offset: string): NativeBackend & { kind: 'overlay' } =>
    overlay(slice(file(BASE), { offset, size: '8M' }))
  await using both = await UblkDevice.create({ backend: stripe([half('0'), half('8M')]) })
  await verify(both.path, ['random-16'], '12m')
})

test('what does not belong together is said in one line, and nothing is touched', async t => {
  const upper = at('own')
  await (await UblkDevice.create({ backend: overlay(file(BASE), { upper }) })).delete()
  await sh(
    `cd "$1"; cp base other; cp -p base same; truncate -s 16M small; head -c 1M own >short; : >empty
     cp own newer; printf '\\x09' | dd of=newer bs=1 seek=16 conv=notrunc status=none`,
    DIR,
  )
  const wrong: [string, NativeBackend, RegExp][] = [
    ['no base', overlay(file(at('missing')), { upper }), /cannot open \S+missing: No such file/],
    [
      'a changed base',
      overlay(file(at('other')), { upper }),
      /own was made over a file of 25165824 bytes, changed at \d+\.\d+, and the base is a file of 25165824 bytes, changed at/,
    ],
    [
      'another size',
      overlay(file(BASE), { upper, size: '32M' }),
      /own is of a disk of 25165824 bytes, not 33554432/,
    ],
    [
      'a truncated upper',
      overlay(file(BASE), { upper: at('short') }),
      /short was truncated: it has 1048576 bytes/,
    ],
    [
      'a newer upper',
      overlay(file(BASE), { upper: at('newer') }),
      /newer is from a newer version of ublk-ts/,
    ],
    ['no upper at all', overlay(file(BASE), { upper: BASE }), /base is no upper of an overlay/],
    ['an empty file', overlay(file(BASE), { upper: at('empty') }), /empty is empty/],
    [
      'two lazy disks',
      stripe([1, 2].map(() => overlay(lazy({ source: BASE }))) as never),
      /more than one lazy disk is in a stack/,
    ],
  ]
  const before = await sh('cd "$1"; sha256sum own short newer empty', DIR)
  for (const [what, backend, message] of wrong) {
    const error = await t.throwsAsync(UblkDevice.create({ backend }), { message }, what)
    t.false(error?.message.includes('\n'), what)
    t.truthy((error as { hint?: string }).hint ?? what === 'no base', what)
  }
  t.is(await sh('cd "$1"; sha256sum own short newer empty', DIR), before)
  t.deepEqual(await UblkDevice.list(), [])

  await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper }) })
  t.truthy(disk.path)
  await t.throwsAsync(UblkDevice.create({ backend: overlay(file(at('same')), { upper }) }), {
    message: /own is in use: process \d+/,
  })
  await t.throwsAsync(UblkDevice.create({ backend: file(BASE) }), { message: /base is in use: / })
  // A disk that cannot be made leaves none of the files that would have been made for it.
  const made = ['vain', 'vain.changes', 'vain.cache', 'vain.cache.map'].map(at)
  const vain: NativeBackend[] = [
    overlay(file(BASE), { upper: made[0] as string }),
    tracked(memory('16M'), { map: made[1] as string }),
    lazy({ source: at('other'), cache: made[2] as string }),
  ]
  for (const backend of vain) {
    await t.throwsAsync(UblkDevice.create({ backend, id: disk.id }), { code: 'EEXIST' })
    t.deepEqual(made.filter(existsSync), [], backend.kind)
  }
  const { status, stderr } = await run('create', '--file', BASE, '--overlay-size', '1G')
  t.is(status, 2)
  t.is(stderr, 'ublk-ts: --overlay-size is only for --overlay\n')
})
