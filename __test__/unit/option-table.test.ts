import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { Option } from 'commander'
import { UblkDevice, worker } from '../../dist/index.js'
import { checkRecover } from '../../dist/lifecycle-options.js'
import type { Values } from '../../dist/options/option.js'
import { OPTIONS, RECORDED_OPTIONS, SERVING_OPTIONS } from '../../dist/options/table.js'
import { checkValues } from '../../dist/options/value.js'
import { commands } from '../support/commands.js'

// What is made of the table of options, and what must match it.

interface Native {
  Cancel: new () => object
  Device: { create(spec: object, cancel: object, onEvent: () => void): Promise<unknown> }
}
const native = createRequire(import.meta.url)('../../binding/index.cjs') as Native
const root = fileURLToPath(new URL('../../', import.meta.url))

test('the interfaces with their TSDoc, and the rows in docs/options.md, are those of the table', t => {
  t.notThrows(() => execFileSync(`${root}scripts/options.mjs`, ['--check'], { stdio: 'pipe' }))
})

test('the engine has a field for each option that the native part gets, and no other', t => {
  const source = readFileSync(`${root}crates/ublk-core/src/spec/options.rs`, 'utf8')
  const struct = /pub struct Spec \{\n([\s\S]*?)\n\}/.exec(source)?.[1] ?? ''
  const fields = [...struct.matchAll(/^ {4}pub (\w+):/gm)].map(([, name = '']) =>
    name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
  )
  const native = Object.keys(OPTIONS).filter(name => OPTIONS[name]?.native ?? true)
  t.deepEqual(fields.sort(), [...native, 'sharedMemory'].sort())
})

test('the engine reads every value that an option may have, and no other word', async t => {
  const read = async (name: string, value: unknown): Promise<string> => {
    const spec = { backend: { kind: 'none' }, options: { [name]: value } } // The options are read first.
    return await native.Device.create(spec, new native.Cancel(), () => {}).then(
      () => 'it was created',
      (error: Error) => error.message,
    )
  }
  for (const [name, { takes, native = true }] of Object.entries(OPTIONS)) {
    if (!native) continue
    for (const value of samples(takes)) t.is(await read(name, value), 'there is no backend "none"', name)
    t.regex(await read(name, 'wrong'), /^the options are wrong: /, name)
  }
  t.regex(await read('queues', 1.5), /^the options are wrong: /)
  t.regex(await read('queue', 1), /^the options are wrong: unknown field `queue`/)
})

/** Values of an option, with the smallest and the largest one. */
function samples(takes: Values): unknown[] {
  switch (takes.type) {
    case 'count':
      return [takes.min, takes.max]
    case 'size':
      return 'of' in takes.rule ? [...takes.rule.of] : [4096, takes.rule.max]
    case 'flag':
      return [true, false]
    case 'choice':
      return Object.keys(takes.of)
    case 'other':
      return [{}, { prefault: true, hugePages: false, lock: true }]
  }
}

test('the name of a flag is that of its option, and create has every flag', async t => {
  const create = (await commands()).find(command => command.name() === 'create')
  for (const [name, { cli }] of Object.entries(OPTIONS)) {
    if (!cli) continue
    t.is(new Option(cli.flags).attributeName(), name)
    t.true(
      create?.options.some(({ flags }) => flags === cli.flags),
      cli.flags,
    )
  }
})

test('recover takes the options of the server, and no other', t => {
  const backend = { kind: 'null', size: 512 }
  for (const [name, { scope, takes }] of Object.entries(OPTIONS)) {
    if (name === 'backend') continue
    const error = t.throws(() => checkRecover({ backend, [name]: Symbol('wrong') }), { name: 'UblkError' })
    if (scope === 'serve') t.notRegex(error.message, /has no option/, name)
    else t.is(error.message, `UblkDevice.recover() has no option '${name}'`, takes.type)
  }
  t.true(SERVING_OPTIONS.includes('buffers'))
  t.false(SERVING_OPTIONS.includes('depth'))
})

test('a record has the options of the device, not those of a call', t => {
  for (const name of ['backend', 'queues', 'recovery', 'poll', 'timeout', 'stuckTimeout']) {
    t.true(RECORDED_OPTIONS.includes(name), name)
  }
  for (const name of ['id', 'start', 'record', 'signal']) t.false(RECORDED_OPTIONS.includes(name), name)
})

test('a value that is wrong with any backend is refused before the backend is loaded', async t => {
  const backend = worker('file:///there/is/no/such/disk.js')
  await t.throwsAsync(UblkDevice.create({ backend, queues: 0 }), {
    message: /^queues must be a whole number/,
  })
  await t.throwsAsync(UblkDevice.create({ backend, maxDiscard: 100 }), { message: /^max discard must be/ })
  await t.throwsAsync(UblkDevice.recover(0, { backend, poll: 1001 }), { message: /^poll must be/ })
})

test('every option refuses what it cannot be, in one line', t => {
  for (const name of Object.keys(OPTIONS)) {
    const error = t.throws(() => checkValues({ [name]: Symbol('wrong') }), { name: 'UblkError' }, name)
    t.notRegex(error.message, /\n/)
  }
})
