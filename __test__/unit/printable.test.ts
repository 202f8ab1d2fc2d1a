import test from 'ava'
import { describe } from '../../dist/cli/failure.js'
import { formatTable } from '../../dist/cli/table.js'
import { UblkError } from '../../dist/errors.js'
import { toJsonText } from '../../dist/json.js'
import { printable } from '../../dist/printable.js'

test('control characters are written as in a string, and all else is as it was', t => {
  t.is(
    printable('a\nb\r\tc\x1b[2J\x00\x7f\x9b1m\u2028é\\n'),
    'a\\nb\\r\\tc\\x1b[2J\\x00\\x7f\\x9b1m\\u2028é\\n',
  )
  const all = Array.from({ length: 0x3000 }, (_, code) => String.fromCharCode(code)).join('')
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to escape
  t.notRegex(printable(all), /[\x00-\x1f\x7f-\x9f\u2028\u2029]/)
})

const EVIL = 'mounted on /mnt/a\n<0>evil\x1b[2J'

test('names of others make no second line, in an error, on the command line, in a table', t => {
  const error = new UblkError('busy', `/dev/ublkb0 is in use: ${EVIL}`, { hint: `not ${EVIL}` })
  const shown = 'mounted on /mnt/a\\n<0>evil\\x1b[2J'
  t.is(error.message, `/dev/ublkb0 is in use: ${shown}`)
  t.is(describe(error).line, `/dev/ublkb0 is in use: ${shown}; not ${shown}`)
  const columns = [{ name: 'USERS', summary: '', value: (row: string[]) => row }]
  t.is(formatTable(columns, [[EVIL]]), `USERS\n${shown}`)
})

test('JSON has names as they are, without a character that a terminal takes for more', t => {
  const text = toJsonText({ users: [EVIL, '\x9b2J\x7f'] }, 2)
  t.deepEqual(JSON.parse(text), { users: [EVIL, '\x9b2J\x7f'] })
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to escape
  t.notRegex(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/)
})

test('sizes beyond 2 to the 53rd have all their digits, in JSON and in bytes', t => {
  const sizes = [2 ** 62, 2 ** 63 - 1024, 9007199254740991 * 512, 2 ** 53 - 1, 512, -(2 ** 60), 0.5, 1e300]
  const text = toJsonText({ sizes })
  t.is(
    text,
    `{"sizes":[4611686018427387904,9223372036854774784,4611686018427387392,9007199254740991,512,-1152921504606846976,0.5,${BigInt(1e300)}]}`,
  )
  t.deepEqual(JSON.parse(text), { sizes })
  t.is(toJsonText('1b2c "12"'), '"1b2c \\"12\\""')
  const columns = [{ name: 'SIZE', summary: '', bytes: true, value: (row: number) => row }]
  t.is(formatTable(columns, [2 ** 62], { bytes: true, noheadings: true }), '4611686018427387904')
})
