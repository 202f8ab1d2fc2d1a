import test from 'ava'
import { formatSize, parseSize } from '../../dist/size.js'

const KiB = 1024

const readable: [string | number, number][] = [
  [0, 0],
  [512, 512],
  ['512', 512],
  [' 512 ', 512],
  ['512B', 512],
  ['4K', 4 * KiB],
  ['4k', 4 * KiB],
  ['4KiB', 4 * KiB],
  ['4KB', 4000],
  ['16M', 16 * KiB ** 2],
  ['16MiB', 16 * KiB ** 2],
  ['16MB', 16_000_000],
  ['1G', KiB ** 3],
  ['2T', 2 * KiB ** 4],
  ['3P', 3 * KiB ** 5],
  ['7E', 7 * KiB ** 6],
  ['9223372036854774784', 2 ** 63 - 1024],
  [2 ** 62, 2 ** 62],
]
for (const [text, bytes] of readable) {
  test(`the size ${JSON.stringify(text)} is ${bytes} bytes`, t => {
    t.is(parseSize(text), bytes)
  })
}

const unreadable: [string | number, RegExp][] = [
  ['', /not understood/],
  ['12Q', /'12Q' is not understood/],
  ['K', /not understood/],
  ['16 M', /not understood/],
  ['16MiBs', /not understood/],
  ['0x10', /not understood/],
  ['1e3', /not understood/],
  ['-5', /negative/],
  [-1, /negative/],
  ['1.5G', /has a fraction/],
  [1.5, /has a fraction/],
  [Number.NaN, /not understood/],
  [Number.POSITIVE_INFINITY, /not understood/],
  ['8E', /too large/],
  ['9223372036854775808', /too large/],
  [2 ** 63, /too large/],
  [1e30, /too large/],
  ['9223372036854775296', /multiple of 1024|too fine/],
]
for (const [text, message] of unreadable) {
  test(`the size ${JSON.stringify(text)} (${text}) is refused in one line, with a hint`, t => {
    const error = t.throws(() => parseSize(text, 'size'), { name: 'UblkError', message })
    t.like(error, { kind: 'invalid' })
    t.regex((error as Error & { hint: string }).hint, /./)
    t.notRegex(error?.message ?? '', /\n/)
  })
}

test('an error names what the size is for', t => {
  t.throws(() => parseSize('x', 'max io'), { message: /^max io / })
})

const written: [number, string][] = [
  [0, '0B'],
  [512, '512B'],
  [16 * KiB ** 2, '16M'],
  [1.5 * KiB ** 3, '1.5G'],
  [KiB ** 4 + 1, '1T'],
  [2 ** 62, '4E'],
]
for (const [bytes, text] of written) {
  test(`${bytes} bytes are written as ${text}`, t => {
    t.is(formatSize(bytes), text)
  })
}
