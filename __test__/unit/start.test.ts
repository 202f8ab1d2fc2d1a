import { execFileSync, spawnSync } from 'node:child_process'
import {
  chownSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
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
  ['--version', 4, 311],
  ['list', 6, 311],
  ['create --mem 0', 5, 350],
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

/** A copy of the program, which has kept nothing yet. */
function copyOfProgram(name: string): { main: string; kept(): string[] } {
  cpSync(dirname(MAIN), join(dir, name, 'dist/bin'), {
    recursive: true,
    filter: file => !file.includes('.cache'),
  })
  cpSync(join(root, 'package.json'), join(dir, name, 'package.json'))
  const bin = join(dir, name, 'dist/bin')
  return {
    main: join(bin, 'ublk-ts.cjs'),
    kept: () => readdirSync(bin).filter(file => file.includes('.cache')),
  }
}

function versionOf(main: string, options: { env?: NodeJS.ProcessEnv; node?: string[] } = {}): string {
  const { env, node = [] } = options
  const words = [...node, main, '--version']
  return execFileSync(process.execPath, words, { env: { ...process.env, ...env }, encoding: 'utf8' }).trim()
}

const VERSION = (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version

test('what is compiled of the program is kept, and grows by what another command needs', t => {
  const { main, kept } = copyOfProgram('kept')
  t.is(versionOf(main), VERSION)
  const files = kept()
  t.true(files.length >= 3)
  t.true(files.every(file => file.endsWith(`.${process.version}-${process.arch}.cache`)))
  const first = join(dirname(main), files.find(file => file.startsWith('first.')) ?? '')
  const wordsOf = (): string | undefined => readFileSync(first, 'latin1').split('\n', 1)[0]
  t.is(wordsOf(), '-')
  const { ino } = statSync(first)
  t.is(versionOf(main), VERSION)
  t.is(statSync(first).ino, ino, 'it was written anew for nothing')
  spawnSync(process.execPath, [main, 'list', '--help'])
  t.is(wordsOf(), '- list')
  t.deepEqual(kept(), files)
})

test('what was kept is used in place of what is in the files', t => {
  const { main } = copyOfProgram('used')
  const help = (env: NodeJS.ProcessEnv = {}): string =>
    execFileSync(process.execPath, [main, '--help'], { env: { ...process.env, ...env }, encoding: 'utf8' })
  const before = help()
  // V8 looks at the length of a text alone. A file whose name has the hash of its text does not change otherwise.
  for (const name of readdirSync(dirname(main)).filter(
    name => name.startsWith('first.') && name.endsWith('.cjs'),
  )) {
    const file = join(dirname(main), name)
    writeFileSync(file, readFileSync(file, 'utf8').replace('Linux block devices', 'Linux BLOCK devices'))
  }
  t.is(help(), before)
  t.is(
    help({ NODE_DISABLE_COMPILE_CACHE: '1' }),
    before.replace('Linux block devices', 'Linux BLOCK devices'),
  )
})

test('what was kept and is damaged, or of other settings, is made anew', t => {
  const { main, kept } = copyOfProgram('damaged')
  versionOf(main)
  for (const damage of [
    (bytes: Buffer) => bytes.subarray(0, 0),
    (bytes: Buffer) => bytes.subarray(0, bytes.length / 2),
    (bytes: Buffer) => Buffer.alloc(bytes.length),
    (bytes: Buffer) => bytes.fill(0, Math.max(0, bytes.length - 4096)),
    (bytes: Buffer) => bytes.fill(bytes.readUInt8(1000) ^ 1, 1000, 1001),
  ]) {
    const files = kept().map(file => join(dirname(main), file))
    for (const file of files) writeFileSync(file, damage(readFileSync(file)))
    t.is(versionOf(main), VERSION)
    for (const file of files) t.regex(readFileSync(file, 'latin1'), /^-\n[\s\S]{1000}/)
  }
  t.is(versionOf(main, { node: ['--no-lazy'] }), VERSION)
  t.is(versionOf(main), VERSION)
})

test('nothing is kept where that is not wanted or not possible', t => {
  const unwanted = copyOfProgram('unwanted')
  t.is(versionOf(unwanted.main, { env: { NODE_DISABLE_COMPILE_CACHE: '1' } }), VERSION)
  t.deepEqual(unwanted.kept(), [])
  if (process.geteuid?.() !== 0) return
  // Of another user: what root made there, that user could not replace.
  const others = copyOfProgram('others')
  chownSync(others.main, 1, 1)
  t.is(versionOf(others.main), VERSION)
  t.deepEqual(others.kept(), [])
})

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
