/** Tests with real disks under Jest, whose modules are ES modules: `NODE_OPTIONS=--experimental-vm-modules jest`. */
import { readFile, writeFile } from 'node:fs/promises'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { tmpDisk } from 'ublk-ts/testing'

let disk

beforeEach(async () => {
  disk = await tmpDisk({ size: '64M', fs: 'ext4', mount: true, faults: [] })
})
afterEach(() => disk?.[Symbol.asyncDispose]())

test('a file is there after a remount', async () => {
  await writeFile(`${disk.dir}/greeting`, 'hello', { flush: true })
  await disk.remount()
  expect(await readFile(`${disk.dir}/greeting`, 'utf8')).toBe('hello')
})

test('a disk that fails is noticed', async () => {
  await disk.faults.set([{ op: 'write', errno: 'EIO' }])
  await expect(writeFile(`${disk.dir}/greeting`, 'hello', { flush: true })).rejects.toMatchObject({
    code: 'EIO',
  })
})
