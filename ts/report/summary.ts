import { fateOf, isWritten, type LostPart, type Subject, type Sum, type Written } from './account.js'
import {
  because,
  counted,
  escaped,
  exactly,
  grouped,
  instead,
  listed,
  MODELS,
  named,
  roughly,
} from './words.js'

/** More losses are not listed in front of the table. */
const LISTED = 12

/** The losses to look at first, with a letter each: what a check needs to fail, or all losses if they are few. */
export function tagged({ lost, shrunk }: Subject): Map<number, string> {
  const writes = [...new Set((shrunk ?? { lost }).lost.map(({ write }) => write))]
  if (writes.length > LETTERS.length || (!shrunk && writes.length > LISTED)) return new Map()
  return new Map(writes.map((write, at) => [write, LETTERS[at] ?? '']))
}

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'

/** What happened, in sentences and numbers. */
export function summary(subject: Subject, tags: ReadonlyMap<number, string>): string {
  return `<div class=two><div><p class=lead>${whatHappened(subject)}</p>
${illegal(subject.account.model)}</div><div>${losses(subject, tags)}</div></div>${tiles(subject.account.sums)}`
}

function total(sums: readonly Sum[], which: (sum: Sum) => boolean): Sum {
  const all: Sum = { standing: 'volatile', loss: 'none', writes: 0, bytes: 0 }
  for (const sum of sums.filter(which)) {
    all.writes += sum.writes
    all.bytes += sum.bytes
  }
  return all
}

const isOpen = ({ standing }: Sum): boolean => standing === 'volatile' || standing === 'in-flight'
const isLossy = ({ loss }: Sum): boolean => loss !== 'none'

function whatHappened({ account, marks }: Subject): string {
  const { sums, flushes, cut } = account
  const [all, open, lost] = [() => true, isOpen, (sum: Sum) => isOpen(sum) && isLossy(sum)].map(which =>
    total(sums, which),
  ) as [Sum, Sum, Sum]
  const mark = marks.at(-1)
  const promised =
    mark === undefined ? 'No mark was set.' : `The last mark is <strong>${named(mark)}</strong>.`
  const done = `${counted(all.writes, 'write')} and ${counted(flushes, 'flush', 'flushes')}`
  const first = `The power failed at moment ${grouped(cut)}, after ${done}. ${promised}`
  if (open.writes === 0) return `${first} All writes were durable.`
  const kept = open.writes - lost.writes
  const was = open.writes === 1 ? 'was' : 'were'
  return `${first} ${counted(open.writes, 'write')} ${was} not durable yet: this disk has ${grouped(kept)} of them, and <strong>lacks ${grouped(lost.writes)}</strong>, in whole or in part.`
}

function illegal(model: string): string {
  const known = MODELS[model]
  if (!known) return ''
  if (!known.illegal) return `<p class=aside>${known.does}</p>`
  return `<p class=warn><strong>No disk may do this</strong> (model ${escaped(model)}). ${known.does} A correct program may fail here, too.</p>`
}

function losses(subject: Subject, tags: ReadonlyMap<number, string>): string {
  const { shrunk, lost, account } = subject
  if (shrunk && shrunk.lost.length === 0) {
    return `<h2>What matters</h2><p>The check fails even when <strong>nothing is lost</strong> (state <code>${escaped(shrunk.id)}</code>): the program has not written what it promised, or the check is wrong.`
  }
  const parts = shrunk ? shrunk.lost : lost
  if (parts.length === 0) return '<h2>What is lost</h2><p>Nothing: this disk has all that was written.'
  const entries = new Map(account.entries.filter(isWritten).map(write => [write.number, write]))
  const items = parts.slice(0, LISTED).map(part => item(part, entries.get(part.write), tags.get(part.write)))
  const more = parts.length > LISTED ? `<li>and ${counted(parts.length - LISTED, 'more part')}` : ''
  const heading = shrunk
    ? `<h2>What matters</h2><p>The check still fails if ${parts.length === 1 ? 'only this is' : 'only these are'} lost, and all else is there (state <code>${escaped(shrunk.id)}</code>):`
    : '<h2>What is lost</h2>'
  return `${heading}<ul class=losses>${items.join('')}${more}</ul>`
}

function item(part: LostPart, write: Written | undefined, tag: string | undefined): string {
  const label = tag === undefined ? '' : `<b>${tag}</b>`
  const which = `write ${grouped(part.write)}`
  const link = tag === undefined ? which : `<a href="#w${part.write}">${which}</a>`
  const what = part.op === 'write' ? '' : ` (${escaped(part.op)})`
  const whole = write && fateOf(write) === 'lost' && part.length === write.length
  const length = whole ? `all ${exactly(part.length)}` : exactly(part.length)
  const of = write && !whole ? ` of ${exactly(write.length)}` : ''
  const whose = part.meta ? ', structures of the file system' : ''
  const why = write ? ` ${sentence(because(write))}` : ''
  return `<li>${label}<span>${link}${what}: ${length}${of} at byte ${grouped(part.offset)}${whose}; ${instead(part)}.${why}</span>`
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

function tiles(sums: readonly Sum[]): string {
  const tile = (name: string, of: string, which: (sum: Sum) => boolean): string => {
    const { writes, bytes } = total(sums, which)
    return `<div class=${of}><dt>${name}<dd>${grouped(writes)}<small>${writes === 0 ? 'none' : roughly(bytes)}</small></div>`
  }
  const inFlight = total(sums, ({ standing }) => standing === 'in-flight').writes
  const note =
    inFlight === 0
      ? ''
      : `<p class=aside>${listed([`${counted(inFlight, 'write')} ${inFlight === 1 ? 'was' : 'were'} in flight`])}: not answered when the power failed.</p>`
  return `<dl class=tiles>${tile('durable', 'd', sum => !isOpen(sum) && !isLossy(sum))}${tile('not durable, kept', 'k', sum => isOpen(sum) && !isLossy(sum))}${tile('lost in part', 'p', ({ loss }) => loss === 'part')}${tile('lost', 'l', ({ loss }) => loss === 'whole')}</dl>${note}`
}
