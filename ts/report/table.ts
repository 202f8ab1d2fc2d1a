import {
  type Account,
  type Entry,
  fateOf,
  isWritten,
  type LostPart,
  type Subject,
  type Written,
} from './account.js'
import { LETTERS } from './timeline.js'
import { counted, escaped, exactly, fate, grouped, listed, named, roughly } from './words.js'

/** All that happened, a row for each entry. */
export function table(subject: Subject, tags: ReadonlyMap<number, string>): string {
  const { account, shrunk } = subject
  const parts = new Map<number, LostPart[]>()
  for (const part of subject.lost) parts.set(part.write, [...(parts.get(part.write) ?? []), part])
  const matters = new Set(shrunk?.lost.map(({ write }) => write))
  const row = (entry: Entry): string => {
    if (isWritten(entry)) {
      const { number } = entry
      return written(entry, parts.get(number) ?? [], tags.get(number), matters.has(number))
    }
    return other(entry)
  }
  return `<table id=all><caption class=aside>Each write, flush and mark until the power failed</caption>
<thead><tr><th scope=col class=n>#<th scope=col>Fate<th scope=col>What<th scope=col class=n>At byte<th scope=col class=n>Length<th scope=col class=n>Moments
<tbody>
${account.entries.map(row).join('\n')}
<tr class=c><td><td><td colspan=3>the power fails<td>${account.cut}
</table>`
}

function written(
  write: Written,
  parts: readonly LostPart[],
  tag: string | undefined,
  matters: boolean,
): string {
  const { kind, number, offset, length, start, done, standing, fua, meta } = write
  const classes = [LETTERS[fateOf(write)], standing === 'in-flight' ? 'i' : '', matters ? 's' : ''].filter(
    Boolean,
  )
  const list = classes.length > 1 ? `"${classes.join(' ')}"` : classes[0]
  const id = tag === undefined ? '' : ` id=w${number}`
  const what = `${kind}${meta ? ' <i>META</i>' : ''}${fua ? ' <i>FUA</i>' : ''}`
  const moments = done === undefined || done === null ? `${start}–` : `${start}–${done}`
  const label = tag === undefined ? '' : `<b>${tag}</b>`
  return `<tr class=${list}${id}><td>${number}<td>${label}${fate(write, parts)}<td>${what}<td>${grouped(offset)}<td>${exactly(length)}<td>${moments}`
}

function other(entry: Entry): string {
  switch (entry.kind) {
    case 'flush':
      return `<tr class=f><td><td>${entry.answered ? '' : 'not answered'}<td colspan=3>flush<td>${entry.start}`
    case 'mark':
      return `<tr class=m><td><td><td colspan=3>mark ${named(entry.name ?? '')}<td>${entry.start}`
    default:
      return `<tr class=g><td><td colspan=5>${leftOut(entry)}`
  }
}

function leftOut({ writes = 0, bytes = 0, lossy = 0, flushes = 0, marks = 0 }: Entry): string {
  const parts = [
    ...(writes > 0 ? [`${counted(writes, 'write')} (${roughly(bytes)})`] : []),
    ...(flushes > 0 ? [counted(flushes, 'flush', 'flushes')] : []),
    ...(marks > 0 ? [counted(marks, 'mark')] : []),
  ]
  return `${listed(parts)} left out${lossy > 0 ? `, of which ${counted(lossy, 'write')} lost something` : ''}`
}

/** How many entries have a row, and how many have none. */
export function rowsTold({ entries, sums, flushes, marks }: Account): string {
  const left = entries.filter(({ kind }) => kind === 'left-out')
  if (left.length === 0) return ''
  const sum = (of: (entry: Entry) => number | undefined): number =>
    left.reduce((all, entry) => all + (of(entry) ?? 0), 0)
  const writes = sums.reduce((all, each) => all + each.writes, 0)
  const named = entries.length - left.length
  const hidden = sum(each => each.writes) + sum(each => each.flushes) + sum(each => each.marks)
  return escaped(
    `Of ${grouped(named + hidden)} entries (${counted(writes, 'write')}, ${counted(flushes, 'flush', 'flushes')}, ${counted(marks, 'mark')}), ${grouped(named)} are listed: those that are lost, what happened around them, the last flushes and marks, what was not durable, and the newest of the rest. The numbers above and the map count all of them.`,
  )
}
