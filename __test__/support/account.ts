import type { Account, Cell, Entry, LostPart, Subject, Sum, Written } from '../../dist/report/account.js'

/** What an account is made of. */
interface Workload {
  /** How many flushes and marks, and how many writes before each. */
  rounds: number
  writes: number
  size?: number
  model?: string
  /** How many of the writes that are not durable are lost, in whole or in part. */
  losses?: number
  mark?: (round: number) => string
}

const UNIT = 4096

/**
 * The account of a state, as the native part returns it, of a disk with a file system that has a journal. Some writes of the last
 * round are in flight when the power fails.
 */
export function madeUp({
  rounds,
  writes,
  size = 16 << 20,
  model = 'torn',
  losses = 2,
  mark = String,
}: Workload): Subject {
  let seed = 7
  const below = (limit: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
    return Math.floor((seed / 2 ** 32) * limit)
  }
  const place = (number: number): number => {
    const areas = [
      size / 16 + (number % 256) * UNIT,
      UNIT * (1 + below(12)),
      size / 2 + UNIT * below(Math.min(2 ** 26, size / 4 / UNIT)),
    ]
    return areas[number % 3] as number
  }
  const entries: Entry[] = []
  const all: Written[] = []
  let [now, since] = [0, 0]
  for (let round = 1; round <= rounds; round++) {
    const open: Written[] = []
    const answer = (): void => {
      for (const write of open.splice(0)) write.done = now++
    }
    for (let at = 0; at < writes; at++) {
      const number = all.length
      const write: Written = {
        kind: below(20) === 0 ? 'write-zeroes' : 'write',
        number,
        start: now++,
        offset: place(number),
        length: number % 3 === 0 ? UNIT : UNIT * (1 + below(4)),
        fua: below(25) === 0,
        meta: number % 3 < 2,
        standing: 'volatile',
        lost: 0,
      }
      open.push(write)
      all.push(write)
      entries.push(write)
      if (below(3) > 0 && at < writes - 1) answer()
    }
    if (round === rounds) break
    answer()
    since = now
    entries.push(
      { kind: 'flush', start: now, answered: true },
      { kind: 'mark', start: now + 2, name: mark(round) },
    )
    now += 3
  }
  for (const write of all) {
    if (write.done === undefined) write.standing = 'in-flight'
    else if (write.done < since) write.standing = 'flushed'
    else if (write.fua) write.standing = 'forced'
  }
  const lost = lose(all, losses)
  const heat = { start: 0, cell: Math.max(UNIT, size / 1024), touched: [] as Cell[] }
  heat.touched = cellsOf(all, heat.cell)
  const named = entries.filter(({ kind }) => kind === 'mark').map(({ name = '' }) => name)
  const account: Account = {
    model,
    size,
    unit: UNIT,
    cut: now,
    since,
    entries,
    sums: sumsOf(all),
    flushes: named.length,
    marks: named.length,
    heat: { ...heat, cells: size / heat.cell },
  }
  return { title: 'ext4: a rename is not durable', id: `${now}.7`, marks: named, lost, account }
}

const isOpen = ({ standing }: Written): boolean => standing === 'volatile' || standing === 'in-flight'

/** Every other one is lost in part, if it has several units. */
function lose(all: readonly Written[], losses: number): LostPart[] {
  const open = all.filter(isOpen)
  const chosen = new Set(Array.from({ length: losses }, (_, at) => open[(at * 7 + 3) % open.length]))
  return [...chosen]
    .flatMap((write, at): LostPart[] => {
      if (!write) return []
      write.lost = at % 2 === 1 && write.length > UNIT ? write.length - UNIT : write.length
      const { number, offset, length, kind, meta = false, lost } = write
      return [{ write: number, offset: offset + length - lost, length: lost, op: kind, meta, how: 'missing' }]
    })
    .sort((one, other) => one.write - other.write)
}

function sumsOf(all: readonly Written[]): Sum[] {
  const sums = new Map<string, Sum>()
  for (const { standing, lost, length } of all) {
    const loss = lost === 0 ? 'none' : lost < length ? 'part' : 'whole'
    const sum = sums.get(standing + loss) ?? { standing, loss, writes: 0, bytes: 0 }
    sums.set(standing + loss, { ...sum, writes: sum.writes + 1, bytes: sum.bytes + length })
  }
  return [...sums.values()]
}

function cellsOf(all: readonly Written[], size: number): Cell[] {
  const cells = new Map<number, Cell>()
  for (const write of all) {
    const { offset, length, lost } = write
    for (let at = Math.floor(offset / size); at * size < offset + length; at++) {
      const cell = cells.get(at) ?? { number: at, writes: 0, written: 0, open: 0, lost: 0 }
      const part = Math.min(length, size)
      cells.set(at, {
        number: at,
        writes: cell.writes + 1,
        written: cell.written + part,
        open: cell.open + (isOpen(write) ? part : 0),
        lost: cell.lost + Math.min(lost, part),
      })
    }
  }
  return [...cells.values()].sort((one, other) => one.number - other.number)
}

/** The same state, whose check needs only the first `count` losses to fail. */
export function shrunk(subject: Subject, count = 1): Subject {
  const lost = subject.lost.slice(0, count)
  const parts = lost.map(({ write, offset, length }) => `${write}@${offset}+${length}`)
  return { ...subject, shrunk: { id: [subject.account.cut, ...parts].join('-'), lost } }
}
