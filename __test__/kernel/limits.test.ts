// processors: 1 and 2
import { readdirSync, readFileSync } from 'node:fs'
import { type DeviceOptions, type DiskBackend, memory, UblkDevice, worker } from 'ublk-ts'
import limited from '../backends/limited.js'
import { leaveNothingBehind } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { sh } from '../support/program.js'

leaveNothingBehind(test)

/** What the kernel says about a disk, in blockdev's words and sysfs's. */
async function reported(id: number) {
  const sys = (name: string) => readFileSync(`/sys/block/ublkb${id}/${name}`, 'utf8').trim()
  const flags = ['--getsize64', '--getss', '--getpbsz', '--getro']
  const [size, block, physical, readOnly] = (await sh(`blockdev ${flags.join(' ')} /dev/ublkb${id}`))
    .trim()
    .split('\n')
    .map(Number)
  return {
    size,
    block,
    physical,
    readOnly: readOnly === 1,
    maxIo: Number(sys('queue/max_hw_sectors_kb')) * 1024,
    cache: sys('queue/write_cache'),
    fua: sys('queue/fua') === '1',
    rotational: sys('queue/rotational') === '1',
    discardGranularity: Number(sys('queue/discard_granularity')),
    maxDiscard: Number(sys('queue/discard_max_hw_bytes')),
    maxZeroes: Number(sys('queue/write_zeroes_max_bytes')),
    queues: readdirSync(`/sys/block/ublkb${id}/mq`).length,
    depth: Number(sys('mq/0/nr_tags')),
  }
}

const asked: [string, DeviceOptions, Partial<Awaited<ReturnType<typeof reported>>>][] = [
  [
    'the defaults',
    { backend: memory('16M') },
    {
      size: 2 ** 24,
      block: 512,
      physical: 4096,
      readOnly: false,
      maxIo: 2 ** 19,
      cache: 'write through',
      fua: false,
      rotational: false,
      queues: 1,
      depth: 128,
    },
  ],
  ['an odd size', { backend: memory(512 * 12345) }, { size: 512 * 12345 }],
  ['a size beyond 4 GiB', { backend: memory('5T') }, { size: 5 * 2 ** 40 }],
  ['blocks of 1 KiB', { backend: memory('16M'), blockSize: '1K' }, { block: 1024, physical: 4096 }],
  ['blocks of 2 KiB', { backend: memory('16M'), blockSize: '2K' }, { block: 2048 }],
  [
    'blocks of 4 KiB',
    { backend: memory('16M'), blockSize: '4K', physicalBlockSize: '8K' },
    { block: 4096, physical: 8192 },
  ],
  [
    '512-byte physical blocks',
    { backend: memory('16M'), physicalBlockSize: 512 },
    { block: 512, physical: 512 },
  ],
  ['the smallest requests', { backend: memory('16M'), maxIo: '4K' }, { maxIo: 4096 }],
  ['the largest requests', { backend: memory('16M'), maxIo: '32M', depth: 2 }, { maxIo: 2 ** 25, depth: 2 }],
  [
    'a read-only disk',
    { backend: memory('16M'), readOnly: true },
    { readOnly: true, maxDiscard: 0, maxZeroes: 0 },
  ],
  ['a write cache', { backend: memory('16M'), writeCache: true }, { cache: 'write back', fua: true }],
  ['a rotational disk', { backend: memory('16M'), rotational: true }, { rotational: true }],
  ['no discard', { backend: memory('16M'), discard: false }, { maxDiscard: 0, maxZeroes: 0 }],
  [
    'discard limits',
    { backend: memory('16M'), discardGranularity: '64K', maxDiscard: '1M' },
    { discardGranularity: 65536, maxDiscard: 2 ** 20, maxZeroes: 2 ** 20 },
  ],
  ['two queues of depth 1', { backend: memory('16M'), queues: 2, depth: 1 }, { queues: 2, depth: 1 }],
  ['depth 4096', { backend: memory('16M'), depth: 4096, maxIo: '4K' }, { depth: 4096 }],
]
for (const [name, options, wanted] of asked) {
  ;(options.queues === 2 ? onTwo : test)(`the kernel reports ${name} as asked for`, async t => {
    await using disk = await UblkDevice.create(options)
    t.like(await reported(disk.id), wanted)
    const info = await disk.info()
    t.is(info.maxDiscard, (await reported(disk.id)).maxDiscard)
  })
}

onTwo('more queues than CPUs become as many as there are CPUs', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M'), queues: 64, depth: 4, maxIo: '4K' })
  const cpus = Number(await sh('nproc --all'))
  t.is(disk.queues, Math.min(64, cpus))
  t.is((await reported(disk.id)).queues, disk.queues)
})

test('a read-only disk refuses writes', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M'), readOnly: true })
  await t.throwsAsync(sh('dd if=/dev/zero of="$1" bs=4k count=1 conv=nocreat oflag=direct', disk.path))
})

const LIMITED = new URL('../backends/limited.js', import.meta.url)

for (const form of ['a plain object', 'a worker'] as const) {
  test(`a disk written in JavaScript gets requests within its limits: ${form}`, async t => {
    const chunk = 64 * 1024
    const seen = new Int32Array(new SharedArrayBuffer(8))
    const limits = { chunk, optimalIo: '128K', maxSegments: 3, maxSegmentSize: '8K' } as const
    const options = { limits, chunk, seen }
    const plain = async () => (await limited(options, { queue: 0 })) as DiskBackend
    const backend = form === 'a worker' ? worker(LIMITED, options) : await plain()
    await using disk = await UblkDevice.create({ backend })
    const limit = (name: string) => Number(readFileSync(`/sys/block/ublkb${disk.id}/queue/${name}`, 'utf8'))
    t.deepEqual(['chunk_sectors', 'optimal_io_size', 'max_segments', 'max_segment_size'].map(limit), [
      chunk / 512,
      2 ** 17,
      3,
      8192,
    ])
    const told = { chunk, optimalIo: 2 ** 17, maxSegments: 3, maxSegmentSize: 8192 }
    t.like(await disk.info(), told)
    await sh('dd if=/dev/zero of="$1" bs=160K count=20 oflag=direct', disk.path)
    await sh('dd if="$1" of=/dev/null bs=160K count=20 iflag=direct', disk.path)
    const [crossed = -1, largest = -1] = seen
    t.is(crossed, 0)
    t.true(largest > 8192 && largest <= 3 * 8192, String(largest))
    await disk.stop()
    t.like(await disk.info(), told)
  })
}
