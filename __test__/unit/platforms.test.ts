import { execFileSync, spawnSync } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { fileURLToPath, pathToFileURL } from 'node:url'
import test from 'ava'
import { UblkDevice, type UblkError, worker } from '../../dist/index.js'

const root = fileURLToPath(new URL('../../', import.meta.url))
const dir = mkdtempSync(`${tmpdir()}/ublk-ts-platforms-`)
test.after.always(() => rmSync(dir, { recursive: true, force: true }))

/** A module that makes Node say that it runs elsewhere. */
function elsewhere(where: { platform?: string; arch?: string }): string[] {
  const lines = Object.entries(where).map(
    ([name, value]) => `Object.defineProperty(process, '${name}', { value: '${value}' })`,
  )
  return ['--import', `data:text/javascript,${encodeURIComponent(lines.join('\n'))}`]
}

const elsewheres: [string, { platform?: string; arch?: string }, RegExp][] = [
  ['macOS', { platform: 'darwin' }, /^ublk-ts makes disks on Linux only, and this is macOS$/],
  ['Windows', { platform: 'win32' }, /^ublk-ts makes disks on Linux only, and this is Windows$/],
  [
    'another processor',
    { arch: 'riscv64' },
    /^ublk-ts has native parts for x64 and arm64, and none for riscv64$/,
  ],
]
for (const [name, where, message] of elsewheres) {
  test(`on ${name} the package can be imported, and its use is one clear error`, t => {
    const script = `
      const { DiskPool, features, memory, UblkDevice } = await import('ublk-ts')
      const told = []
      for (const use of [
        () => UblkDevice.create({ backend: memory('16M') }),
        () => UblkDevice.list(),
        () => UblkDevice.open(0),
        () => features(),
      ]) await use().then(() => told.push(['done']), error => told.push([error.name, error.kind, error.message]))
      console.log(JSON.stringify(told))`
    const words = [...elsewhere(where), '--input-type=module', '--eval', script]
    const told = JSON.parse(
      execFileSync(process.execPath, words, { cwd: root, encoding: 'utf8' }),
    ) as string[][]
    t.is(told.length, 4)
    for (const [error, kind, said] of told) {
      t.deepEqual([error, kind], ['UblkError', 'unsupported'])
      t.regex(said ?? '', message)
    }
  })

  test(`on ${name} each command says in one line that it cannot work`, t => {
    const run = (...command: string[]) =>
      spawnSync(process.execPath, [...elsewhere(where), 'dist/bin/ublk-ts.cjs', ...command], {
        cwd: root,
        encoding: 'utf8',
      })
    for (const command of [['create', '--mem', '16M'], ['list'], ['features']]) {
      const { status, stdout, stderr } = run(...command)
      t.deepEqual([status, stdout], [1, ''])
      t.regex(stderr, /^ublk-ts: ublk-ts (makes disks on Linux only|has native parts for).*\n$/)
    }
    const doctor = run('doctor')
    t.is(doctor.status, 1)
    t.regex(doctor.stdout, /^FAIL {2}system .*; remedy: .*\n$/)
  })
}

/** A copy of the package with these files in place of its native part. */
function copy(name: string, natives: Record<string, string>): string {
  const place = `${dir}/${name}`
  mkdirSync(`${place}/binding`, { recursive: true })
  cpSync(`${root}dist`, `${place}/dist`, { recursive: true })
  for (const file of ['package.json', 'binding/index.cjs']) cpSync(root + file, `${place}/${file}`)
  for (const [file, text] of Object.entries(natives)) writeFileSync(`${place}/binding/${file}`, text)
  return place
}

/** What its use says there, and its doctor. */
function told(place: string): { used: string; doctor: string } {
  const script = `
    const { UblkDevice } = await import('ublk-ts')
    await UblkDevice.list().catch(({ name, message, hint }) => console.log([name, message, hint].join('|')))`
  const words = ['--input-type=module', '--eval', script]
  const used = execFileSync(process.execPath, words, { cwd: place, encoding: 'utf8' })
  symlinkSync(`${root}node_modules`, `${place}/node_modules`)
  const doctor = spawnSync(process.execPath, ['dist/bin/ublk-ts.cjs', 'doctor'], {
    cwd: place,
    encoding: 'utf8',
  })
  return { used, doctor: doctor.stdout }
}

test('a native part that is not installed, or cannot be loaded, is told in one sentence', t => {
  const none = told(copy('none', {}))
  t.is(
    none.used,
    `UblkError|the native part of ublk-ts for Linux on ${process.arch} is not installed|` +
      'install ublk-ts again on this kind of machine, with optional dependencies; where a bundler is used, tell it that ublk-ts is external\n',
  )
  t.regex(none.doctor, /^FAIL {2}native .*is not installed \(Node .*\); remedy: install ublk-ts again/m)
  const broken = told(copy('broken', { [`ublk-ts.linux-${process.arch}-gnu.node`]: 'no library' }))
  t.regex(
    broken.used,
    /^UblkError\|the native part of ublk-ts cannot be loaded: .*(too short|invalid ELF).*\|\n$/,
  )
  t.regex(broken.doctor, /^FAIL {2}native .*cannot be loaded: /m)
})

test('where the native parts for both C libraries are installed, the one of Node is loaded', t => {
  const wrong = (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header
    .glibcVersionRuntime
    ? 'musl'
    : 'gnu'
  const place = copy('both', { [`ublk-ts.linux-${process.arch}-${wrong}.node`]: 'no library' })
  const right = `ublk-ts.linux-${process.arch}-${wrong === 'gnu' ? 'musl' : 'gnu'}.node`
  cpSync(`${root}binding/${right}`, `${place}/binding/${right}`)
  t.notRegex(told(place).used, /native part/)
})

const libc = (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header
  .glibcVersionRuntime
  ? 'gnu'
  : 'musl'
const here = `linux-${process.arch}-${libc}`

/** A copy of the package with the plain native part, and @ublk-ts/remote as strict package managers install it: with its own dependencies. */
function withRemote(
  name: string,
  version: string,
  native = `${root}binding/ublk-ts-remote.${here}.node`,
): string {
  const place = copy(name, {})
  cpSync(`${root}binding/ublk-ts.${here}.node`, `${place}/binding/ublk-ts.${here}.node`)
  const remote = `${place}/node_modules/@ublk-ts/remote`
  const itsNative = `${remote}/node_modules/@ublk-ts/remote-${here}`
  mkdirSync(itsNative, { recursive: true })
  cpSync(`${root}npm/remote`, remote, { recursive: true })
  writeFileSync(`${remote}/package.json`, JSON.stringify({ main: 'index.cjs', version }))
  cpSync(`${root}npm/remote-${here}/package.json`, `${itsNative}/package.json`)
  cpSync(native, `${itsNative}/ublk-ts-remote.${here}.node`)
  return place
}

/** The native parts that a process has loaded there, and what it says to what needs object stores. */
function loaded(place: string): { files: string[]; said: string } {
  const script = `
    await import('ublk-ts')
    const { needsRemote } = await import('./dist/backends/needs-remote.js')
    const said = await needsRemote('s3()').then(() => 'fine', ({ kind, message, hint }) => [kind, message, hint].join('|'))
    const files = process.report.getReport().sharedObjects.filter(file => file.endsWith('.node'))
    console.log(JSON.stringify({ files: files.map(file => file.replace(/.*\\//, '')), said }))`
  const words = ['--input-type=module', '--eval', script]
  return JSON.parse(execFileSync(process.execPath, words, { cwd: place, encoding: 'utf8' }))
}

const { version } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string }
const plain = [`ublk-ts.${here}.node`]

test('without @ublk-ts/remote, what needs it says how to get it', t => {
  const place = copy('plain', {})
  cpSync(`${root}binding/${plain}`, `${place}/binding/${plain}`)
  t.deepEqual(loaded(place), {
    files: plain,
    said: 'unsupported|s3() needs the package @ublk-ts/remote|npm install @ublk-ts/remote',
  })
})

test('the native part of @ublk-ts/remote is loaded in place of the plain one, and alone', t => {
  const remote = { files: [`ublk-ts-remote.${here}.node`], said: 'fine' }
  t.deepEqual(loaded(withRemote('strict', version)), remote)
  const built = copy('built', {})
  for (const file of [...plain, ...remote.files]) cpSync(`${root}binding/${file}`, `${built}/binding/${file}`)
  t.deepEqual(loaded(built), remote)
})

test('@ublk-ts/remote of another version, or that cannot be loaded, leaves the plain native part, and is told when it is needed', t => {
  const other = loaded(withRemote('other-version', '9.9.9'))
  t.deepEqual(other.files, plain)
  t.is(
    other.said,
    `unsupported|@ublk-ts/remote is of version 9.9.9, and ublk-ts of ${version}: install the same of both|npm install @ublk-ts/remote`,
  )
  writeFileSync(`${dir}/no-library`, 'no library')
  const broken = loaded(withRemote('broken-remote', version, `${dir}/no-library`))
  t.deepEqual(broken.files, plain)
  t.regex(
    broken.said,
    /^unsupported\|the native part of @ublk-ts\/remote cannot be loaded: .*(too short|invalid ELF)/,
  )
})

test('a Worker whose module is TypeScript says that it has to be compiled where Node does not run that', async t => {
  const module = `${dir}/disk.ts`
  writeFileSync(module, 'const size: number = 2 ** 20\nexport default () => ({ size, read() {} })\n')
  const create = UblkDevice.create({ backend: worker(pathToFileURL(module)) })
  const error = (await t.throwsAsync(create)) as UblkError
  if ((process.features as { typescript?: unknown }).typescript) t.not(error.kind, 'invalid')
  else {
    t.deepEqual([error.kind, error.message], ['invalid', `Node ${process.version} does not run TypeScript`])
    t.regex(error.hint ?? '', /^compile the module first/)
  }
})

test('a bundle without the file that Workers run says what to tell the bundler', async t => {
  const place = copy('bundled', {})
  for (const native of readdirSync(`${root}binding`).filter(name => name.endsWith('.node'))) {
    cpSync(`${root}binding/${native}`, `${place}/binding/${native}`)
  }
  rmSync(`${place}/dist/runtime/worker-main.js`)
  writeFileSync(`${place}/disk.mjs`, 'export default () => ({ size: 2 ** 20, read() {} })\n')
  const script = `
    import { UblkDevice, worker } from 'ublk-ts'
    await UblkDevice.create({ backend: worker(new URL('file://${place}/disk.mjs')) })
      .catch(({ kind, message, hint }) => console.log([kind, message, hint].join('|')))`
  const words = ['--input-type=module', '--eval', script]
  t.is(
    execFileSync(process.execPath, words, { cwd: place, encoding: 'utf8' }),
    'unsupported|the file worker-main.js of ublk-ts is missing, as after bundling|where a bundler is used, tell it that ublk-ts is external\n',
  )
})
