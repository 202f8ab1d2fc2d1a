/** Tests with real disks under Node's own test runner: `node --test`. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import test from 'node:test'
import { tmpDisk } from 'ublk-ts/testing'

test('a file is there after a remount', async t => {
  await using disk = await tmpDisk({ size: '64M', fs: 'ext4', mount: true, onMissing: 'skip' })
  if (!disk) return t.skip('no disk can be made here')
  await writeFile(`${disk.dir}/greeting`, 'hello', { flush: true })
  await disk.remount()
  assert.equal(await readFile(`${disk.dir}/greeting`, 'utf8'), 'hello')
})

test('a disk that fails is noticed', async t => {
  await using disk = await tmpDisk({ size: '64M', fs: 'ext4', mount: true, faults: [], onMissing: 'skip' })
  if (!disk) return t.skip('no disk can be made here')
  await disk.faults.set([{ op: 'write', errno: 'EIO' }])
  await assert.rejects(writeFile(`${disk.dir}/greeting`, 'hello', { flush: true }), { code: 'EIO' })
})
