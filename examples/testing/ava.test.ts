/** Tests with real disks under AVA. The tests of a file run side by side, each with a disk of its own. */
import { readFile, writeFile } from 'node:fs/promises'
import anyTest from 'ava'
import { missing, tmpDisk } from 'ublk-ts/testing'

// Without a driver these tests fail, unless the environment says that they may be skipped.
const test = (await missing(process.env['CI'] ? 'fail' : 'skip')) === undefined ? anyTest : anyTest.skip

test('a file is there after a remount', async t => {
  await using disk = await tmpDisk({ size: '64M', fs: 'ext4', mount: true })
  await writeFile(`${disk.dir}/greeting`, 'hello', { flush: true })
  await disk.remount()
  t.is(await readFile(`${disk.dir}/greeting`, 'utf8'), 'hello')
})

test('a disk that fails is noticed', async t => {
  await using disk = await tmpDisk({ size: '64M', fs: 'ext4', mount: true, faults: [] })
  await disk.faults.set([{ op: 'write', errno: 'EIO' }])
  await t.throwsAsync(writeFile(`${disk.dir}/greeting`, 'hello', { flush: true }), { code: 'EIO' })
})
