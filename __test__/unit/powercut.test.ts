import { totalmem } from 'node:os'
import test from 'ava'
import { mostInMemory, powercutKind } from '../../dist/backends/powercut.js'
import { checkExport } from '../../dist/crash-options.js'
import { memory, type PowercutOptions, powercut } from '../../dist/index.js'

const make = (options: unknown) => () => powercut(options as PowercutOptions)

test('a powercut disk begins with a size, another disk, or a log that is replayed', t => {
  const both = { message: /needs a size or a disk that it begins with, and not both/ }
  t.throws(make({}), both)
  t.throws(make({ size: '1M', over: memory('1M') }), both)
  t.throws(make({ size: '1M', over: memory('1M'), replay: 'log' }), both)
  t.throws(make({ replay: '' }), { message: 'the path of the log to replay is empty' })
  t.throws(make({ replay: 7 }), {
    message: 'the path of the log to replay must be text or a file: URL, not 7',
  })
  t.throws(make({ replay: 'a\0b' }), { message: 'the path of the log to replay has a zero byte' })
  t.throws(make({ reply: 'log' }), { message: /has no option 'reply'/ })
  t.is(powercut({ replay: new URL('file:///tmp/a%20log') }).replay, '/tmp/a log')
  t.is(powercut({ replay: 'log', size: '1M' }).size, 1 << 20)
  t.is(powercutKind.label(powercut({ replay: 'a.log' })), 'log in memory after a.log')
  t.like(powercutKind.toRecord?.(powercut({ replay: 'a.log' })), { replay: `${process.cwd()}/a.log` })
})

test('a log in memory may become half of the memory, and one in a file 64 GiB', t => {
  const [mib, gib] = [2 ** 20, 2 ** 30]
  t.is(mostInMemory(8 * gib + 4097), 4 * gib)
  t.is(mostInMemory(2 ** 40), 64 * gib)
  t.is(mostInMemory(0), mib)
  const { logMax } = powercut({ size: '1M' })
  t.is(logMax, mostInMemory())
  t.true(logMax <= totalmem() / 2 && logMax >= mib)
  t.is(powercut({ size: '1M', log: 'data' }).logMax, 64 * gib)
  t.is(powercut({ size: '1M', logMax: '100G' }).logMax, 100 * gib)
})

test('where a log is exported to is checked', t => {
  const check = checkExport as (path: unknown, options: unknown) => string
  t.is(check('a.log', {}), `${process.cwd()}/a.log`)
  t.throws(() => check('', {}), { message: 'the path of the log is empty' })
  t.throws(() => check(undefined, {}), { message: 'the path of the log is empty' })
  t.throws(() => check('a', { signal: 1 }), { message: 'signal must be an AbortSignal, not 1' })
  t.throws(() => check('a', { path: 1 }), { message: /exportLog\(\) has no option 'path'/ })
})
