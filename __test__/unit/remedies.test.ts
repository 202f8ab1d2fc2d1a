import { readdirSync, readFileSync } from 'node:fs'
import test from 'ava'
import { describe } from '../../dist/cli/failure.js'
import { cliWords } from '../../dist/cli/remedies.js'
import { UblkError, wrap } from '../../dist/errors.js'
import { apiWords, OWN_REMEDIES } from '../../dist/remedies.js'
import { jsonRpc, readReply } from '../../dist/remote/control-dialects.js'
import { commands } from '../support/commands.js'

/** An error as it comes from another process. */
function overTheSocket(error: UblkError): UblkError {
  return (readReply(JSON.parse(JSON.stringify(jsonRpc.error(1, error)))) as { error: UblkError }).error
}

/** The names of the engine's remedies. */
function engines(): string[] {
  const source = readFileSync('crates/ublk-core/src/hint.rs', 'utf8')
  const names = /const fn name[\s\S]*?\n {4}\}/.exec(source)?.[0] ?? ''
  return [...names.matchAll(/=> "([a-z-]+)"/g)].map(match => match[1] as string)
}

const FLAGS = new Set((await commands()).flatMap(({ options }) => options.map(({ long }) => long)))
const NAMES = new Set((await commands()).map(command => command.name()))

/** The flags and commands of ublk-ts in a text. */
function ofUblkTs(text: string): string[] {
  const found = [...text.matchAll(/--[a-z-]+/g)].filter(([flag]) => FLAGS.has(flag))
  const called = [...text.matchAll(/ublk-ts ([a-z]+)/g)].filter(([, command = '']) => NAMES.has(command))
  return [...found, ...called].map(String)
}

test('both surfaces have words for each remedy', t => {
  t.true(engines().length > 5)
  const names = [...engines(), ...OWN_REMEDIES].sort()
  t.deepEqual(Object.keys(apiWords).sort(), names)
  t.deepEqual(Object.keys(cliWords).sort(), names)
})

test('a program is told no flag and no command', t => {
  for (const words of Object.values(apiWords)) t.notRegex(words, /--|ublk-ts /)
})

test('no hint of the engine names a flag or a command of ublk-ts', t => {
  const root = 'crates/ublk-core/src/'
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.rs'))
  for (const name of files) {
    const product = (readFileSync(root + name, 'utf8').split('#[cfg(test)]')[0] ?? '').split('\n')
    const texts = product.filter(line => !/^\s*\/\//.test(line)).flatMap(line => line.match(/"[^"]*"/g) ?? [])
    for (const text of texts) t.deepEqual(ofUblkTs(text), [], `${name}: ${text}`)
  }
})

test('no error of the library or the daemon names a flag or a command of ublk-ts', t => {
  const files = readdirSync('ts', { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
  // The command line's own words, and the descriptions of options that it is made of.
  const ours = files.filter(name => !/^(cli|backends|options)\//.test(name))
  t.true(ours.includes('daemon/serve-disk.ts'))
  for (const name of ours) {
    const code = readFileSync(`ts/${name}`, 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
    for (const [text] of code.matchAll(/'[^'\n]*'|"[^"\n]*"|`[^`]*`/g)) {
      t.deepEqual(ofUblkTs(text), [], `${name}: ${text}`)
    }
  }
})

test('what concerns a device is worded with its number', t => {
  const error = new UblkError('not-found', 'device 3 has no server', { device: 3, hint: '{recover}' })
  t.is(error.hint, 'UblkDevice.recover(3, …)')
  t.is(describe(overTheSocket(error)).line, 'device 3 has no server; ublk-ts recover 3')
})

test('a hint is worded for its reader, also after it came from another process', t => {
  const native = Object.assign(new Error('it is in use'), {
    kind: 'busy',
    hint: 'wait for that{wait}, or remove it anyway{force}',
  })
  for (const error of [wrap(native), overTheSocket(wrap(native))]) {
    t.true(error instanceof UblkError)
    t.is(error.hint, 'wait for that (wait: true), or remove it anyway (force: true)')
    t.is(describe(error).line, 'it is in use; wait for that (--wait), or remove it anyway (--force)')
  }
})
