import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { MAIN } from '../support/program.js'

const root = fileURLToPath(new URL('../../', import.meta.url))
const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-start-'))
test.after.always(() => rmSync(dir, { recursive: true }))

const preload = join(dir, 'preload.cjs')
writeFileSync(
  preload,
  `process.on('exit', () => {
    const files = Object.keys(require.cache).filter(file => file !== __filename)
    const nodes = process.moduleLoadList.flatMap(name => name.match(/^NativeModule ([^/]+(?:\\/promises)?)$/)?.[1] ?? [])
    require('fs').writeFileSync(${JSON.stringify(join(dir, 'told'))}, JSON.stringify({ files, nodes }))
  })`,
)

/** What a command loads: files, bytes of those that are text, and modules of Node with all that they bring. */
function loadedFor(...words: string[]): { files: string[]; bytes: number; nodes: string[] } {
  spawnSync(process.execPath, ['--require', preload, MAIN, ...words], { timeout: 60_000 })
  const { files, nodes } = JSON.parse(readFileSync(join(dir, 'told'), 'utf8')) as Record<
    'files' | 'nodes',
    string[]
  >
  const texts = files.filter(file => !file.endsWith('.node'))
  return { files, bytes: texts.reduce((sum, file) => sum + statSync(file).size, 0), nodes }
}

/** Each of them brings some twenty or more others. */
const HEAVY = ['child_process', 'crypto', 'http', 'https', 'net', 'stream', 'tls', 'tty', 'worker_threads']
const heavy = (nodes: readonly string[]): string[] => nodes.filter(name => HEAVY.includes(name))

// Most of the time of a short command goes into finding, reading and compiling files: they are few, and stay few.
const limits: [words: string, files: number, kilobytes: number][] = [
  ['--version', 3, 290],
  ['list', 6, 330],
  ['create --mem 0', 6, 600],
  ['delete 999999', 7, 560],
]
for (const [words, files, kilobytes] of limits) {
  test(`ublk-ts ${words} loads few files, and of Node only what is small`, t => {
    const loaded = loadedFor(...words.split(' '))
    const names = loaded.files.map(file => basename(file))
    t.true(names.includes('ublk-ts.cjs'))
    t.true(names.length <= files, `${names}`)
    t.true(loaded.bytes <= kilobytes * 1000, `${loaded.bytes} bytes`)
    t.deepEqual(heavy(loaded.nodes), [])
  })
}

test('the help loads nothing of the daemon, the native part or metrics', t => {
  const { files } = loadedFor('--help')
  t.false(files.some(file => file.includes('binding')))
  t.false(files.some(file => readFileSync(file, 'utf8').includes('prom-client')))
})

test('importing the package loads of Node only what is small', t => {
  const script = "await import('ublk-ts'); console.log(JSON.stringify(process.moduleLoadList))"
  const words = ['--input-type=module', '--eval', script]
  const all = JSON.parse(execFileSync(process.execPath, words, { cwd: root, encoding: 'utf8' })) as string[]
  // The script itself prints to a pipe.
  t.deepEqual(
    heavy(all.map(name => name.replace('NativeModule ', ''))).filter(
      name => !['net', 'stream', 'tty'].includes(name),
    ),
    [],
  )
})

test('the licences of the packages in the program are beside it', t => {
  const notices = readFileSync(join(dirname(MAIN), '../THIRD-PARTY.txt'), 'utf8')
  for (const name of ['commander', '@logtape/logtape', 'prom-client']) {
    t.regex(notices, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+ \\(`, 'm'))
  }
})
