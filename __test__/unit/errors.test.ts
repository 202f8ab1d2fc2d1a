import test from 'ava'
import { CommanderError } from 'commander'
import { describe } from '../../dist/cli/failure.js'
import { invalid, UblkError, wrap } from '../../dist/errors.js'

test('what the native part rejects with becomes a UblkError with all it knows', t => {
  const native = Object.assign(new Error('device 3 is taken'), {
    kind: 'exists',
    command: 'ADD_DEV',
    device: 3,
    errno: 17,
    code: 'EEXIST',
    hint: null,
  })
  const error = wrap(native)
  t.true(error instanceof UblkError)
  t.is(error.message, 'device 3 is taken')
  t.is(error.cause, native)
  t.like(error, {
    kind: 'exists',
    command: 'ADD_DEV',
    device: 3,
    errno: 17,
    code: 'EEXIST',
    hint: undefined,
  })
})

test('an error without a kind is a failure of the system', t => {
  t.like(wrap(new Error('odd')), { kind: 'system', message: 'odd' })
  t.like(wrap('text'), { kind: 'system', message: 'text', cause: 'text' })
})

test('a UblkError stays as it is', t => {
  const error = invalid('no')
  t.is(wrap(error), error)
})

test('it prints under its own name', t => {
  t.regex(String(new UblkError('busy', 'in use')), /^UblkError: in use$/)
})

test('only the wrong use of the command line exits with 2', t => {
  t.deepEqual(describe(invalid('size 0', 'give more')), { line: 'size 0; give more', status: 2 })
  t.is(describe(new CommanderError(1, 'commander.unknownOption', "error: unknown option '--x'")).status, 2)
  t.deepEqual(describe(new UblkError('busy', 'in use')), { line: 'in use', status: 1 })
})

test('every failure is one line', t => {
  const lines = [
    new UblkError('system', 'one\n  two'),
    new CommanderError(1, 'x', "error: unknown option '--queue'\n(Did you mean --queues?)"),
    new Error('bug\nwith more'),
    new TypeError(''),
    'thrown text\nof two lines',
  ].map(error => describe(error).line)
  t.deepEqual(lines, [
    'one\\n  two',
    "unknown option '--queue' (Did you mean --queues?)",
    'unexpected failure: bug; set UBLK_TS_DEBUG=1 to see where',
    'unexpected failure: TypeError; set UBLK_TS_DEBUG=1 to see where',
    'unexpected failure: thrown text; set UBLK_TS_DEBUG=1 to see where',
  ])
})

test('whatever was thrown, it is put into one line', t => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  const getter = Object.defineProperty(new Error('x'), 'message', {
    get() {
      throw new Error('y')
    },
  })
  const odd = [
    null,
    undefined,
    1n,
    Symbol('s'),
    Object.create(null),
    proxy,
    getter,
    Object.assign(new Error('x'), { message: null }),
  ]
  for (const thrown of odd) t.regex(describe(thrown).line, /^unexpected failure: [^\n]+; set UBLK_TS_DEBUG=1/)
})
