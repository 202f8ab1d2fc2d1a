import test from 'ava'
import { UblkError, wrap } from '../../dist/errors.js'
import { errnoOf, inOneLine, nameOf, onRejection } from '../../dist/user-values.js'
import { Odd, SEED, share } from '../support/odd.js'

const COUNT = share(20_000, 1)

test(`whatever is thrown has an error number and is one line, seed ${SEED}`, t => {
  const odd = new Odd(SEED)
  for (let i = 0; i < COUNT; i++) {
    const value = i % 2 === 0 ? odd.value() : odd.promise()
    const [errno, line, name] = [errnoOf(value), inOneLine(value), nameOf(value)]
    onRejection(value, () => {})
    if (!Number.isInteger(errno) || errno >= 0 || errno < -4095) t.fail(`${i}: ${errno}`)
    for (const text of [line, name]) {
      if (typeof text !== 'string' || text === '' || /[\n\r]/.test(text) || text.length > 1100) {
        t.fail(`${i}: ${JSON.stringify(text)}`)
      }
    }
    if (!(wrap(value) instanceof UblkError)) t.fail(`${i}`)
  }
  t.pass()
})

test('an error means what its code or number says, else EIO', t => {
  const coded = (more: object): Error => Object.assign(new Error('x'), more)
  t.is(errnoOf(coded({ code: 'ENOSPC' })), -28)
  t.is(errnoOf(coded({ errno: -28 })), -28)
  t.is(errnoOf(coded({ errno: 28 })), -28)
  t.is(errnoOf({ code: 'EROFS' }), -30)
  for (const more of [{}, { code: 'toString' }, { errno: 4096 }, { errno: 0 }, { errno: Number.NaN }]) {
    t.is(errnoOf(coded(more)), -5)
  }
  for (const value of [null, undefined, 28, 'ENOSPC', Symbol.iterator]) t.is(errnoOf(value), -5)
})

test('a failure is told with its message, else as what it is', t => {
  t.is(inOneLine(new Error(' one\n two ')), 'one two')
  t.is(inOneLine('text'), 'text')
  t.is(inOneLine(Object.assign(new Error('x'), { message: null })), 'Error: null')
  t.is(inOneLine(Object.create(null)), 'no reason given')
  t.is(inOneLine(''), 'no reason given')
  t.is(inOneLine('x'.repeat(2000)).length, 1001)
})
