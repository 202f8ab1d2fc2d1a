/**
 * The examples in the TSDoc run as they are shown, after what each takes for granted.
 */
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { fileURLToPath, pathToFileURL } from 'node:url'
import test from 'ava'
import * as api from 'ublk-ts'
import { UblkDevice, worker } from 'ublk-ts'
import * as testing from 'ublk-ts/testing'
import { type Example, examplesIn } from '../support/doc-examples.js'
import { ImageServer } from '../support/image-server.js'
import { sh } from '../support/program.js'
import { compile } from '../support/tsc.js'

const root = fileURLToPath(new URL('../../', import.meta.url))
const PROGRAMS = `${root}dist-test/tsdoc`

/** The files that are there. */
const FILES = ['a.img', 'b.img', 'disk.img', 'base.img', 'image.raw']
const OVERLAY = `
const disk = await UblkDevice.create({ backend: overlay(file('base.img'), { upper: 'vm1.cow' }) })
execFileSync('dd', ['if=/dev/urandom', \`of=\${disk.path}\`, 'bs=64k', 'count=4', 'oflag=direct', 'status=none'])`
const POWERCUT = `
const disk = await UblkDevice.create({ backend: powercut({ size: '16M' }) })
execFileSync('mkfs.ext4', ['-q', disk.path])`
const STATE = `${POWERCUT}
const { value: state } = await disk.crashStates().next()
if (!state) throw new Error('it has no state')
const check = (_: CrashState) => false`
const FAULTS = "const disk = await UblkDevice.create({ backend: faults(memory('16M')) })"
/** What the examples are given. */
const GIVEN: Readonly<Record<string, string>> = {
  'qcow2 qcow2': `
mkdirSync('images')
execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'images/base.raw', '32M'])
execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'images/base.raw', '-F', 'raw', 'vm.qcow2'])`,
  'nbd nbd': `
execFileSync('nbdkit', ['-U', '/run/nbd.sock', 'memory', '32M'], { stdio: 'inherit' })`,
  'qemu qemu': "execFileSync('qemu-img', ['create', '-q', '-f', 'vmdk', 'disk.vmdk', '32M'])",
  'device open': "await UblkDevice.create({ id: 0, backend: memory('1M') })",
  'device-handle totals': "await UblkDevice.create({ id: 0, backend: memory('1M'), record: true })",
  'device-content mark': "await UblkDevice.create({ id: 0, backend: powercut({ size: '1M' }) })",
  'device-content exportLog': POWERCUT,
  'device-handle trace': OVERLAY,
  'device-content snapshot': OVERLAY,
  'device-content fork': OVERLAY,
  'device-content flatten': OVERLAY,
  'device-content move': "const disk = await UblkDevice.create({ backend: memory('1M') })",
  'device-content resync':
    "const disk = await UblkDevice.create({ backend: mirror([memory('1M'), memory('1M')]) })",
  'device-content commit': OVERLAY,
  'commit-overlay commitOverlay': `${OVERLAY}
await disk.delete()`,
  'crash-state disk': STATE,
  'crash-state shrink': STATE,
  'crash-state report': STATE,
  'recorded-device crashState': `${POWERCUT}
const { value: found } = await disk.crashStates().next()`,
  'recorded-device mark': POWERCUT,
  'recorded-device cut': POWERCUT,
  'recorded-device cutAt': POWERCUT,
  'recorded-device crashStates': `${POWERCUT}
disk.mark('formatted')`,
  'disk-faults DiskFaults': FAULTS,
  'disk-faults set': FAULTS,
  'disk-faults clear': FAULTS,
  'disk-faults thaw': FAULTS,
  'disk-faults get': FAULTS,
  'recorded-device restore': POWERCUT,
  'index tmpDisk': `
class Store {
  static async open(dir: string): Promise<Store> { return new Store(dir) }
  constructor(readonly dir: string) {}
  async put(key: string, value: string): Promise<void> { await writeFile(join(this.dir, key), value, { flush: true }) }
}`,
}

/** What they say where a program says something else. */
const INSTEAD: readonly (readonly [string, string])[] = [
  ['https://example.org/image.raw', "' + process.env['IMAGE'] + '"],
  ["'105.7~1a2b3c4d'", "found?.id ?? ''"],
  ["worker(new URL('./my-disk.js', import.meta.url))", "memory('16M')"],
  ["rbd('rbd/vm1', { user: 'vms', journal: '64M' })", "memory('16M')"],
  ['s3://my-bucket/disks/db', 'file:///tmp/volume'],
  ['{ … }', '{}'],
]

/** An example as a program, with what it uses. */
function programOf({ name, code }: Example): string {
  const text = INSTEAD.reduce((all, [from, to]) => all.replaceAll(from, to), code)
  const body = `${GIVEN[name] ?? ''}\n${text}`
  const uses = (names: object): string =>
    Object.keys(names)
      .filter(each => new RegExp(`\\b${each}\\(|\\b${each}\\b\\.`).test(`${body}.`))
      .join(', ')
  return `
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type CrashState, type FaultRule } from 'ublk-ts'
import { ${uses(api)} } from 'ublk-ts'
import { ${uses(testing)} } from 'ublk-ts/testing'

const started: Promise<unknown>[] = []
const test = (_: string, ...rest: unknown[]) => void started.push((rest.at(-1) as () => Promise<void>)())
{
${body}
}
await Promise.all(started)
`
}

/** A module that a worker loads, not a program. */
const isModule = ({ code }: Example): boolean => code.startsWith('export default')

test('the examples in the documentation comments run as they are shown', async t => {
  const examples = examplesIn(`${root}ts`)
  t.true(examples.length >= 30)
  const names = examples.map(({ name }) => name)
  t.deepEqual(
    Object.keys(GIVEN).filter(name => !names.includes(name)),
    [],
  )
  rmSync(PROGRAMS, { recursive: true, force: true })
  mkdirSync(PROGRAMS, { recursive: true })
  for (const example of examples) {
    const used = "import { defineBackend } from 'ublk-ts'\n"
    writeFileSync(
      `${PROGRAMS}/${example.name.replaceAll(' ', '-')}.ts`,
      isModule(example) ? used + example.code : programOf(example),
    )
  }
  const said = await compile(
    PROGRAMS,
    examples.map(({ name }) => `${name.replaceAll(' ', '-')}.ts`),
    ['--noUncheckedIndexedAccess', '--exactOptionalPropertyTypes'],
  )
  t.is(said, '')
  await using server = await ImageServer.start()
  process.env['IMAGE'] = server.url
  for (const example of examples) {
    const program = `${PROGRAMS}/${example.name.replaceAll(' ', '-')}.js`
    const dir = mkdtempSync('/tmp/tsdoc-')
    process.chdir(dir)
    for (const name of FILES) {
      writeFileSync(name, '')
      truncateSync(name, 2 ** 25)
    }
    await t.notThrowsAsync(isModule(example) ? serve(program) : import(program), example.name)
    for (const { id } of await UblkDevice.list()) await (await UblkDevice.open(id)).delete()
    process.chdir(root)
    rmSync(dir, { recursive: true })
  }
})

async function serve(program: string): Promise<void> {
  await using disk = await UblkDevice.create({ backend: worker(pathToFileURL(program), { size: 2 ** 20 }) })
  await sh(
    'echo text >text; dd if=text of="$1" status=none; dd if="$1" count=1 status=none | head -n 1 | cmp - text',
    disk.path,
  )
}
