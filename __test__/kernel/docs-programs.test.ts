// seconds: 30
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import * as api from 'ublk-ts'
import { UblkDevice } from 'ublk-ts'
import * as testing from 'ublk-ts/testing'
import { leaveNothingBehind } from '../support/devices.js'
import { ImageServer } from '../support/image-server.js'
import { BLOCKS, type Block, fileNameOf, isProgram, moduleOf, placeOf } from '../support/pages.js'
import { sh } from '../support/program.js'
import { compile } from '../support/tsc.js'

// The programs of the site's pages run as they are shown, on a real kernel.

leaveNothingBehind(test)

const root = fileURLToPath(new URL('../../', import.meta.url))
const PROGRAMS = `${root}dist-test/pages`
/** The files that are there. */
const FILES = ['a.img', 'b.img', 'disk.img', 'base.img', 'image.raw']

const programs = BLOCKS.filter(block => isProgram(block) && (block.runBy ?? block.notRun) === undefined)
const pathOf = (block: Block): string => `${PROGRAMS}/${fileNameOf(block)}`
/** A module that a worker loads. */
const isModule = ({ code }: Block): boolean => /^export default/m.test(code)

let server: ImageServer
test.before(async () => {
  server = await ImageServer.start()
  rmSync(PROGRAMS, { recursive: true, force: true })
  for (const block of programs) {
    mkdirSync(dirname(pathOf(block)), { recursive: true })
    const text = moduleOf(block, Object.keys(api), Object.keys(testing))
    writeFileSync(
      pathOf(block),
      text
        .replaceAll('https://example.org/image.raw', server.url)
        .replace('s3://my-bucket/db', 'file:///tmp/pages-volume')
        .replace('seconds: 2', 'operations: 300'),
    )
  }
  const typescript = programs.map(pathOf).filter(path => path.endsWith('.ts'))
  // Types are checked by docs.test.ts.
  const said = await compile(PROGRAMS, typescript, ['--noCheck'])
  if (said !== '') throw new Error(said)
})
test.after.always(async () => await server?.[Symbol.asyncDispose]())

for (const block of programs) {
  test(`the program at ${placeOf(block)} runs`, async t => {
    const path = pathOf(block).replace(/\.ts$/, '.js')
    const dir = mkdtempSync('/tmp/pages-')
    try {
      for (const name of FILES) {
        writeFileSync(`${dir}/${name}`, '')
        truncateSync(`${dir}/${name}`, 2 ** 25)
      }
      if (isModule(block)) {
        t.truthy(((await import(path)) as { default: unknown }).default)
      } else if (path.endsWith('.mjs')) {
        t.regex(await sh('cd "$1"; node "$2"', dir, path), said(block))
      } else {
        process.chdir(dir)
        await t.notThrowsAsync(import(path))
      }
    } finally {
      process.chdir(root)
      for (const { id } of await UblkDevice.list()) await (await UblkDevice.open(id)).delete()
      rmSync(dir, { recursive: true })
    }
  })
}

/** What some of them are to print. */
function said(block: Block): RegExp {
  if (block.document === 'docs/start.md')
    return /^\/dev\/ublkb\d+ 67108864\n\d+ reads, [1-9]\d* bytes written\n$/
  if (block.document === 'docs/faults.md') return /^Input.output error\n$/
  return /^/
}

test('a program is on each page that is about one', t => {
  for (const page of [
    'start',
    'testing',
    'faults',
    'clones',
    'http-image',
    'write-a-disk',
    'power-cuts',
    'several-clients',
  ]) {
    t.regex(readFileSync(`${root}docs/${page}.md`, 'utf8'), /^```[jt]s$/m, page)
  }
})
