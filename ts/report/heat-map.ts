import type { Account, Cell } from './account.js'
import { counted, exactly, grouped, listed, roughly } from './words.js'

const COLUMNS = 64
/** Of a square and the room around it. */
const EACH = 10
const SIDE = 8.6

/** A map of the disk: the darker a square, the more was written there. */
export function heatMap({ heat, size }: Account): string {
  if (heat.cells === 0) return '<p>Nothing was written.'
  const columns = Math.min(COLUMNS, heat.cells)
  const rows = Math.ceil(heat.cells / columns)
  const squares = (cells: Iterable<number>): string => {
    const parts: string[] = []
    for (const cell of cells) {
      parts.push(`M${(cell % columns) * EACH} ${Math.floor(cell / columns) * EACH}h${SIDE}v${SIDE}h-${SIDE}z`)
    }
    return parts.join('')
  }
  const level = levels(heat.touched)
  const ofLevel = (wanted: number): string => {
    const cells = heat.touched.filter(cell => level(cell) === wanted)
    return cells.length === 0
      ? ''
      : `<path class=h${wanted} d="${squares(cells.map(({ number }) => number))}" />`
  }
  const open = heat.touched.filter(cell => cell.open > 0 && cell.lost === 0)
  const lost = heat.touched.filter(({ lost }) => lost > 0)
  const dots = open.map(({ number }) => `M${center(number, columns)}h.01`)
  const crosses = lost.map(({ number }) => `M${center(number, columns)}m-3-3l6 6m0-6l-6 6`)
  return `<svg class=heat id=heat viewBox="-1 -1 ${columns * EACH + 1} ${rows * EACH + 1}" role=img aria-labelledby="hm-h hm-d" data-start=${heat.start} data-cell=${heat.cell} data-cells=${heat.cells}>
<path class=h0 d="${squares(range(heat.cells))}" />${[1, 2, 3, 4].map(ofLevel).join('')}
${lost.length === 0 ? '' : `<path class=hl d="${squares(lost.map(({ number }) => number))}" />`}<path class=hb d="${dots.join('')}" /><path class=ho d="${dots.join('')}" /><path class=hx d="${crosses.join('')}" /></svg>
<p id=hm-d>${told(heat, size, open.length, lost)}`
}

/** From 1 to 4, by how much was written, each some times as much as the one before; 0: nothing was. */
function levels(cells: readonly Cell[]): (cell: Cell) => number {
  const logs = cells.filter(({ written }) => written > 0).map(({ written }) => Math.log(written))
  const [least, most] = [Math.min(...logs), Math.max(...logs)]
  const step = (most - least) / 4 || 1
  return ({ written }) =>
    written === 0 ? 0 : 1 + Math.min(3, Math.floor((Math.log(written) - least) / step))
}

function center(cell: number, columns: number): string {
  const half = SIDE / 2
  return `${(cell % columns) * EACH + half} ${Math.floor(cell / columns) * EACH + half}`
}

function range(count: number): Iterable<number> {
  return Array(count).keys()
}

function told(heat: Account['heat'], size: number, open: number, lost: readonly Cell[]): string {
  const end = Math.min(size, heat.start + heat.cell * heat.cells)
  const whole = heat.start === 0 && end === size
  const part = `bytes ${grouped(heat.start)} to ${grouped(end)} of the disk’s ${exactly(size)}; nothing was written elsewhere`
  const where = whole ? `all ${exactly(size)} of the disk` : part
  const written = heat.touched.filter(({ written }) => written > 0).length
  const parts = [
    `${grouped(written)} of ${counted(heat.cells, 'square')} ${written === 1 ? 'was' : 'were'} written`,
    ...(open > 0
      ? [`${grouped(open)} of them got something that was not durable, and is there all the same`]
      : []),
  ]
  const places = lost.slice(0, 8).map(({ number }) => roughly(heat.start + number * heat.cell))
  const more =
    lost.length > places.length ? [...places, `${lost.length - places.length} more places`] : places
  const lacking =
    lost.length === 0
      ? ' Nothing is lost.'
      : ` Something is lost in ${counted(lost.length, 'square')}, at ${listed(more)}.`
  return `Each square is ${exactly(heat.cell)}, row by row: ${where}. ${listed(parts)}.${lacking}`
}
