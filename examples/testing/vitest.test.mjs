/** Tests with real disks under Vitest: `vitest run`. */
import { readFile, writeFile } from 'node:fs/promises'
import { missing, tmpDisk } from 'ublk-ts/testing'
import { expect, onTestFinished, test } from 'vitest'

const skip = (await missing('skip')) !== undefined

/** A disk until the end of the test that calls this. (In TypeScript, `await using` is shorter.) */
async function disk(options) {
  const disk = await tmpDisk({ size: '64M', fs: 'ext4', mount: true, ...options })
  onTestFinished(() => disk[Symbol.asyncDispose]())
  return disk
}

test.skipIf(skip)('a file is there after a remount', async () => {
  const made = await disk()
  await writeFile(`${made.dir}/greeting`, 'hello', { flush: true })
  await made.remount()
  expect(await readFile(`${made.dir}/greeting`, 'utf8')).toBe('hello')
})

test.skipIf(skip)('a disk that fails is noticed', async () => {
  const made = await disk({ faults: [] })
  await made.faults.set([{ op: 'write', errno: 'EIO' }])
  await expect(writeFile(`${made.dir}/greeting`, 'hello', { flush: true })).rejects.toThrow('EIO')
})
