import {
  type Account,
  type Entry,
  type Fate,
  fateOf,
  isWritten,
  type Subject,
  type Written,
} from './account.js'
import { apart, endOf, type PlaceScale, placeScale, type TimeScale, timeScale } from './scale.js'
import { escaped, roughly } from './words.js'

/** Of the drawing that is stretched to the width of the page. */
const WIDTH = 1000
const TOP = 56
const HEIGHT = 224
const ALL = TOP + HEIGHT + 26
/** Within the drawing, so that nothing touches its edges. */
const MARGIN = 8
/** A written place is at least so high, and a lost one. */
const THIN = 3
const THICK = 6

/** A timeline: moments from the left to the right, the disk from the top down. */
export function timeline(subject: Subject, tags: ReadonlyMap<number, string>): string {
  const { account } = subject
  const time = timeScale(account, WIDTH)
  const places = placeScale(account, MARGIN, HEIGHT - 2 * MARGIN)
  const writes = account.entries.filter(isWritten)
  const shrunk = new Set(subject.shrunk?.lost.map(({ write }) => write))
  const drawn = new Drawing(time, places, account.cut)
  const of = (fate: Fate, flying: boolean): Written[] =>
    writes.filter(write => fateOf(write) === fate && (write.standing === 'in-flight') === flying)
  const bars = FATES.flatMap(fate => [false, true].map(flying => drawn.bars(of(fate, flying), fate, flying)))
  const rings = drawn.rings(writes.filter(({ number }) => shrunk.has(number)))
  const flushes = account.entries.filter(({ kind, answered }) => kind === 'flush' && answered)
  const open = account.since === undefined || account.since === null ? 0 : time.from(account.since)
  return `<div class=plot>
<svg class=axis width=58 height=${ALL} aria-hidden=true>${placeLabels(places)}</svg>
<svg class=time width="100%" height=${ALL} role=img aria-labelledby="tl-h tl-d"><defs><pattern id=hatch width=6 height=6 patternUnits=userSpaceOnUse patternTransform="rotate(45)"><path d="M0 0v6" /></pattern></defs>
<rect class=open x="${percent(open)}" y=${TOP} width="${percent(WIDTH - open)}" height=${HEIGHT} />
${gaps(account, time)}
${markLabels(account, time)}
<svg id=tl x=0 y=${TOP} width="100%" height=${HEIGHT} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio=none>
<path class=flush d="${flushes.map(({ start }) => `M${short(time.from(start))} 0V${HEIGHT}`).join('')}" />
${bars.join('')}${rings}
<rect id=here width=0 height=0 /></svg>
${tagLabels(writes, tags, drawn)}
${zoneLabels(account, open)}
<line class=cut x1="100%" x2="100%" y1=${TOP - 10} y2=${TOP + HEIGHT + 6} />
</svg></div>`
}

const FATES: readonly Fate[] = ['durable', 'kept', 'part', 'lost']

/** Draws writes from their start to their answer, where they are on the disk. */
class Drawing {
  readonly #time: TimeScale
  readonly #places: PlaceScale
  readonly #cut: number

  constructor(time: TimeScale, places: PlaceScale, cut: number) {
    this.#time = time
    this.#places = places
    this.#cut = cut
  }

  box(write: Written, least: number): { x: number; y: number; width: number; height: number } {
    const x = this.#time.from(write.start)
    const width = this.#time.to(endOf(write, this.#cut)) - x
    const y = this.#places.at(write.offset)
    const height = this.#places.at(write.offset + write.length) - y
    // A short one grows to both sides.
    const more = Math.max(0, least - height)
    return { x, y: y - more / 2, width, height: height + more }
  }

  /** One path for all of a fate: the part with the number n belongs to the nth row with that fate. */
  bars(writes: readonly Written[], fate: Fate, flying: boolean): string {
    if (writes.length === 0) return ''
    const least = fate === 'lost' || fate === 'part' ? THICK : THIN
    const parts = writes.map(write => {
      const { x, y, width, height } = this.box(write, least)
      const [w, h] = [short(Math.max(width * 0.85, 0.1)), short(height)]
      return `M${short(x)} ${short(y)}h${w}v${h}h-${w}z`
    })
    return `<path class="${LETTERS[fate]}${flying ? ' i' : ''}" d="${parts.join('')}" />`
  }

  rings(writes: readonly Written[]): string {
    const ring = (write: Written): string => {
      const { x, y, width, height } = this.box(write, THICK)
      return `<rect class=ring x=${short(x)} y=${short(y - 4)} width=${short(width * 0.85)} height=${short(height + 8)} />`
    }
    return writes.map(ring).join('')
  }
}

/** The classes of rows and bars. */
export const LETTERS: Readonly<Record<Fate, string>> = { durable: 'd', kept: 'k', part: 'p', lost: 'l' }

function short(number: number): string {
  return String(Number(number.toFixed(1)))
}

function percent(x: number): string {
  return `${Number(((x / WIDTH) * 100).toFixed(2))}%`
}

function placeLabels({ starts, at }: PlaceScale): string {
  // The first ones win, as those of marks do that come last.
  const some = apart([...starts].reverse(), byte => -at(byte), 16)
  const label = (byte: number): string => `<text x=52 y=${short(TOP + at(byte) + 9)}>${roughly(byte)}</text>`
  return some.map(label).join('')
}

/** Names that would lie on each other are left out: on narrow pages more of them. */
function markLabels(account: Account, time: TimeScale): string {
  const marks = account.entries.filter(({ kind }) => kind === 'mark')
  const x = ({ start }: Entry): number => time.from(start)
  const wide = new Set(apart(marks, x, 0.11 * WIDTH))
  const narrow = new Set(apart(marks, x, 0.34 * WIDTH))
  return marks
    .map(mark => {
      const at = percent(x(mark))
      const line = `<line class=mark x1="${at}" x2="${at}" y1=${wide.has(mark) ? 26 : 40} y2=${TOP + HEIGHT} />`
      if (!wide.has(mark)) return line
      const signs = [...(mark.name ?? '')]
      const name = signs.length > 14 ? `${signs.slice(0, 13).join('')}…` : signs.join('')
      const side = x(mark) > WIDTH * 0.88 ? ' class="name end' : ' class="name'
      return `${line}<text${side}${narrow.has(mark) ? '' : ' wide'}" x="${at}" y=20>${escaped(name)}</text>`
    })
    .join('')
}

function tagLabels(writes: readonly Written[], tags: ReadonlyMap<number, string>, drawing: Drawing): string {
  return writes
    .map(write => {
      const tag = tags.get(write.number)
      if (tag === undefined) return ''
      const { x, y, height, width } = drawing.box(write, THICK)
      // Below it where there is no room above.
      const at = y > 20 ? TOP + y - 8 : TOP + y + height + 17
      return `<text class=tag x="${percent(x + width / 2)}" y=${short(at)}>${tag}</text>`
    })
    .join('')
}

function gaps({ entries }: Account, time: TimeScale): string {
  const gap = ({ start }: Entry): string => {
    const [from, to] = [time.from(start), time.to(start)]
    return `<rect class=gap x="${percent(from)}" y=${TOP} width="${percent(to - from)}" height=${HEIGHT} />`
  }
  return entries
    .filter(({ kind }) => kind === 'left-out')
    .map(gap)
    .join('')
}

function zoneLabels({ since, cut }: Account, open: number): string {
  const y = TOP + HEIGHT + 18
  const early = open > 0.2 * WIDTH ? `<text class="zone wide" x=0 y=${y}>before the last flush</text>` : ''
  const what = since === undefined || since === null ? 'no flush was answered' : 'after the last flush'
  const late =
    open < 0.7 * WIDTH ? `<text class="zone wide" x="${percent(open)}" dx=4 y=${y}>${what}</text>` : ''
  return `${early}${late}<text class="zone end cut-name" x="100%" y=${y}>the power fails at ${cut}</text>`
}
