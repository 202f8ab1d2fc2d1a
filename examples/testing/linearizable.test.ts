/** Several clients read and write the same blocks of a disk; each read has to return what was written last: `node --test`. */
import assert from 'node:assert/strict'
import test from 'node:test'
import { UblkDevice, worker } from 'ublk-ts'
import { checkLinearizable, missing } from 'ublk-ts/testing'

const skip = (await missing('skip')) ?? false

test('the disk in shared memory is a disk', { skip }, async () => {
  const backend = worker(new URL('../ram-disk.js', import.meta.url), {
    memory: new SharedArrayBuffer(2 ** 20),
  })
  await using disk = await UblkDevice.create({ backend })
  const { reads, concurrent } = await checkLinearizable(disk.path, { operations: 2000, writers: 4 })
  assert(reads > 500)
  assert(concurrent > 50)
})
