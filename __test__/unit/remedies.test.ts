import { readdirSync, readFileSync } from 'node:fs'
import test from 'ava'
import { describe } from '../../dist/cli/failure.js'
import { cliWords } from '../../dist/cli/remedies.js'
import { UblkError, wrap } from '../../dist/errors.js'
import { apiWords } from '../../dist/remedies.js'
import { fromPlain, toPlain } from '../../dist/remote/control-protocol.js'

/** The names of the engine's remedies. */
function engines(): string[] {
  const source = readFileSync('crates/ublk-core/src/hint.rs', 'utf8')
  const names = /const fn name[\s\S]*?\n {4}\}/.exec(source)?.[0] ?? ''
  return [...names.matchAll(/=> "([a-z-]+)"/g)].map(match => match[1] as string)
}

test('both surfaces have words for each remedy of the engine', t => {
  const names = engines().sort()
  t.true(names.length > 5)
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
    for (const text of texts)
      t.notRegex(
        text,
        /(^|[ "(])--[a-z]|ublk-ts (create|delete|doctor|features|list|recover|stop)\b/,
        `${name}: ${text}`,
      )
  }
})

test('a hint is worded for its reader, also after it came from another process', t => {
  const native = Object.assign(new Error('it is in use'), {
    kind: 'busy',
    hint: 'wait for that{wait}, or remove it anyway{force}',
  })
  for (const error of [wrap(native), fromPlain(toPlain(wrap(native)))]) {
    t.true(error instanceof UblkError)
    t.is(error.hint, 'wait for that (wait: true), or remove it anyway (force: true)')
    t.is(describe(error).line, 'it is in use; wait for that (--wait), or remove it anyway (--force)')
  }
})
