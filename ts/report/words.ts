import { printable } from '../printable.js'
import { fateOf, type LostPart, type Written } from './account.js'

/** A text from outside as HTML, between tags or in a quoted attribute. */
export function escaped(text: string): string {
  return printable(text).replace(/[&<>"'`]/g, sign => `&#${sign.charCodeAt(0)};`)
}

/** Longer names are cut, so that a page does not grow with them. */
const LONGEST = 80

/** A name from outside as HTML: its direction does not change that of the text around it. */
export function named(name: string): string {
  const signs = [...name.slice(0, 2 * LONGEST + 2)]
  const short = signs.length > LONGEST ? `${signs.slice(0, LONGEST).join('')}…` : name
  return `<bdi>“${escaped(short)}”</bdi>`
}

/** A whole number, its digits in groups of three. */
export function grouped(number: number): string {
  return BigInt(Math.trunc(number))
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ',')
}

/** A length exactly: in the largest unit of which it is a multiple, or a multiple of a half. */
export function exactly(bytes: number): string {
  for (const [unit, size] of UNITS) {
    if (bytes < size / 2 || (bytes * 2) % size !== 0) continue
    return `${grouped(bytes / size)}${bytes % size === 0 ? '' : '.5'} ${unit}`
  }
  return `${grouped(bytes)} B`
}

const UNITS: readonly (readonly [string, number])[] = [
  ['TiB', 2 ** 40],
  ['GiB', 2 ** 30],
  ['MiB', 2 ** 20],
  ['KiB', 2 ** 10],
]

/** A length, rounded. */
export function roughly(bytes: number): string {
  for (const [unit, size] of UNITS) {
    if (bytes >= size) return `${Number((bytes / size).toFixed(bytes < 10 * size ? 2 : 1))} ${unit}`
  }
  return `${grouped(bytes)} B`
}

/** `1 write`, `2 writes`. */
export function counted(number: number, what: string, many = `${what}s`): string {
  return `${grouped(number)} ${number === 1 ? what : many}`
}

/** `a, b and c`. */
export function listed(parts: readonly string[]): string {
  return parts.length < 2 ? parts.join('') : `${parts.slice(0, -1).join(', ')} and ${parts.at(-1)}`
}

/** What became of a write, in a few words. `parts`: what is lost of it. */
export function fate(write: Written, parts: readonly LostPart[]): string {
  const flying = write.standing === 'in-flight'
  switch (fateOf(write)) {
    case 'durable':
      return write.standing === 'forced' ? 'durable, by FUA' : 'durable'
    case 'kept':
      return flying ? 'in flight, kept' : 'kept'
    default:
      return `${flying ? 'in flight, ' : ''}${loss(write, parts)}${wasDurable(write) ? ' though durable' : ''}`
  }
}

function wasDurable({ standing }: Written): boolean {
  return standing === 'flushed' || standing === 'forced'
}

function loss(write: Written, parts: readonly LostPart[]): string {
  const of = write.lost < write.length ? `${exactly(write.lost)} of it ` : ''
  switch (parts[0]?.how) {
    case 'garbage':
      return `${of}garbage`
    case 'moved':
      return 'elsewhere'
    case 'flipped':
      return 'a bit is wrong'
    default:
      return `${of}lost`
  }
}

/** What is there in the place of a lost part. */
export function instead({ how, to }: LostPart): string {
  switch (how) {
    case 'garbage':
      return 'garbage is there instead'
    case 'moved':
      return `it is at byte ${grouped(to ?? 0)} instead`
    case 'flipped':
      return `bit ${grouped(to ?? 0)} of it is wrong`
    default:
      return 'what was there before is still there'
  }
}

/** Why a write was not durable. */
export function because({ standing }: Written): string {
  switch (standing) {
    case 'in-flight':
      return 'it was not answered yet'
    case 'volatile':
      return 'it was answered, and no flush came afterwards'
    case 'forced':
      return 'it was answered with FUA, which should have made it durable'
    case 'flushed':
      return 'it was answered, and a flush should have made it durable'
  }
}

/** What a model lets a disk do, and whether a real disk may. */
export const MODELS: Readonly<Record<string, { does: string; illegal?: true }>> = {
  prefix: { does: 'The disk has the first writes that were not durable, up to any.' },
  writes: { does: 'The disk has any of the writes that were not durable, whole.' },
  torn: { does: 'The disk has any parts of the writes that were not durable.' },
  garbage: {
    does: 'The disk has any parts of the writes that were not durable, and may have garbage where it was writing.',
  },
  'lying-flush': { does: 'Neither a flush nor FUA made anything durable.', illegal: true },
  'ignored-fua': { does: 'FUA made nothing durable.', illegal: true },
  misdirected: { does: 'The disk has all writes, but one of them elsewhere.', illegal: true },
  'bit-rot': { does: 'The disk has all writes, but a bit of one of them is wrong.', illegal: true },
}
