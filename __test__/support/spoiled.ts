import type { Chance } from '../soak/chance.js'

/** A changed text that is often still JSON and nearly valid, or else random. */
export function spoiled(text: string, chance: Chance): Buffer {
  const spoil = chance.of(SPOILS)
  return spoil(text, chance)
}

type Spoil = (text: string, chance: Chance) => Buffer

const VALUES = [
  'null',
  'true',
  '-1',
  '1e999',
  '-0',
  '9007199254740993',
  `1${'0'.repeat(400)}`,
  '""',
  '"__proto__"',
  '"\\u0000\\ud800"',
  '[]',
  '{}',
  '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}',
]

const SPOILS: readonly Spoil[] = [
  text => Buffer.from(text),
  // random bytes, without an end of line
  (_, chance) =>
    Buffer.from(Array.from({ length: chance.below(300) }, () => chance.below(256))).map(byte =>
      byte === 10 ? 11 : byte,
    ) as Buffer,
  // a value of another type
  (text, chance) => {
    const values = [...text.matchAll(/"(?:[^"\\]|\\.)*"|-?\d+|null|true|false|\{\}|\[\]/g)]
    const { index, 0: value } = chance.of(values)
    return Buffer.from(text.slice(0, index) + chance.of(VALUES) + text.slice(index + value.length))
  },
  // some bytes changed, gone, or twice
  (text, chance) => {
    const bytes = [...Buffer.from(text)]
    for (let times = chance.below(6, 1); times > 0; times--) {
      const at = chance.below(bytes.length + 1)
      const other = chance.below(256)
      const replacement = [[], [other === 10 ? 0 : other], bytes.slice(at, at + chance.below(20))]
      bytes.splice(at, chance.below(3), ...chance.of(replacement))
    }
    return Buffer.from(bytes)
  },
  (text, chance) => Buffer.from(text).subarray(0, chance.below(text.length)),
  // deep
  (_, chance) => Buffer.from('['.repeat(chance.below(60_000))),
  (text, chance) => {
    const depth = chance.below(10_000)
    return Buffer.from(text.replace(/:\{/, `:{"x":${'['.repeat(depth)}${']'.repeat(depth)},`))
  },
  // long
  (text, chance) => Buffer.from(text.replace(/:\{/, `:{"x":"${'y'.repeat(chance.below(70_000))}",`)),
]
