import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import test from 'ava'
import { uses } from '../../dist/cli/device-filter.js'

const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-filter-'))
test.after.always(() => rmSync(dir, { recursive: true }))
const at = (name: string): string => join(dir, name)
for (const name of ['base', 'upper', 'snapshot']) writeFileSync(at(name), '')
linkSync(at('base'), at('hard'))
symlinkSync('base', at('soft'))
mkdirSync(at('images'))

test('a disk is found by its files, by whatever path, and by nothing else in its record', t => {
  const file = { kind: 'file', path: at('base'), direct: false, exclusive: true }
  const overlay = { kind: 'overlay', base: file, upper: at('upper'), snapshot: at('snapshot') }
  const faults = { kind: 'faults', disk: overlay, rules: [{ op: 'write', action: 'hang' }], profile: 'dying' }
  for (const name of ['base', 'hard', 'soft', 'upper', 'snapshot']) t.true(uses(faults, at(name)), name)
  t.true(uses(faults, pathToFileURL(at('base')).href))
  t.true(uses({ ...file, path: at('gone') }, at('gone')))
  t.false(uses(faults, at('gone')))
  // Images with such names are elsewhere.
  for (const word of ['overlay', 'file', 'write', 'hang', 'dying']) t.false(uses(faults, word), word)
  const worker = {
    kind: 'worker',
    url: pathToFileURL(at('disk.js')).href,
    options: { name: 'db', image: 'a.img' },
  }
  t.true(uses(worker, at('disk.js')))
  for (const word of ['db', 'a.img']) t.false(uses(worker, word), word)
})

test('a disk is found by the URL of its image, and an image by what it may be over', t => {
  const url = 'https://example.org/a.img'
  const lazy = { kind: 'lazy', source: url, cache: at('upper') }
  t.true(uses(lazy, url))
  t.true(uses(lazy, at('upper')))
  t.false(uses(lazy, 'https://example.org/b.img'))
  const image = { kind: 'qcow2', path: at('upper'), backing: [at('base'), at('images')] }
  t.true(uses(image, at('soft')))
  t.false(uses(image, at('images')))
})
