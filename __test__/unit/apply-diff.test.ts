/** How a diff is taken for a stream or for a raw file with its list. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { applyDiff } from 'ublk-ts'

const SIZE = 65536
const dir = mkdtempSync(join(tmpdir(), 'apply-'))
test.after.always(() => rmSync(dir, { recursive: true }))

/** A raw diff of one block, with that beginning. */
function raw(name: string, begin: string): { diff: string; copy: string } {
  const [diff, copy] = [join(dir, name), join(dir, `${name}.copy`)]
  const content = Buffer.alloc(SIZE)
  content.write(begin)
  writeFileSync(diff, content)
  writeFileSync(copy, Buffer.alloc(SIZE, 9))
  return { diff, copy }
}

test('a raw diff with its list is applied as such, whatever the disk begins with', async t => {
  for (const begin of ['ublkdiff', 'ublkdif', '']) {
    const { diff, copy } = raw(`begin-${begin}`, begin)
    writeFileSync(`${diff}.json`, JSON.stringify({ size: SIZE, ranges: [{ offset: 0, length: 4096 }] }))
    t.deepEqual(await applyDiff(diff, copy), { extents: 1, bytes: 4096 })
    t.deepEqual(
      readFileSync(copy),
      Buffer.concat([readFileSync(diff).subarray(0, 4096), Buffer.alloc(SIZE - 4096, 9)]),
    )
  }
})

test('a list that is wrong or cannot be read is named, and nothing is changed', async t => {
  const { diff, copy } = raw('wrong', '')
  const refused = async (message: RegExp): Promise<void> => {
    await t.throwsAsync(applyDiff(diff, copy), { message })
    t.deepEqual(readFileSync(copy), Buffer.alloc(SIZE, 9))
  }
  await refused(/wrong is no diff/)
  writeFileSync(`${diff}.json`, '{"ranges":[]}')
  await refused(/wrong\.json is not the list of a diff/)
  writeFileSync(`${diff}.json`, JSON.stringify({ size: SIZE - 4096, ranges: [] }))
  await refused(/wrong and its list of ranges do not belong together/)
  rmSync(`${diff}.json`)
  mkdirSync(`${diff}.json`)
  await refused(/cannot read the list of the diff: EISDIR/)
})
