import { type Disk, numberOf } from './store.js'
import { bytes, colour, count, element, get, say, time } from './words.js'

const HEIGHT = 32
/** Rows that are made above and below those in sight. */
const SPARE = 4

interface Column {
  readonly name: string
  readonly title: string
  /** How disks are in order: text, or a number of which the largest comes first. */
  readonly by: (disk: Disk) => string | number
  readonly words?: (disk: Disk) => string
  /** Not where there is little room. */
  readonly wide?: boolean
}

const COLUMNS: readonly Column[] = [
  { name: 'disk', title: 'Disk', by: ({ about }) => about.name, words: ({ about }) => about.name },
  {
    name: 'state',
    title: 'State',
    by: ({ about }) => (about.trouble ? 'not read' : about.state),
    words: ({ about }) => (about.trouble ? 'not read' : about.state),
    wide: true,
  },
  {
    name: 'read',
    title: 'Read/s',
    by: disk => disk.get('readBytes'),
    words: disk => rate(disk.get('readBytes')),
  },
  {
    name: 'written',
    title: 'Write/s',
    by: disk => disk.get('writeBytes'),
    words: disk => rate(disk.get('writeBytes')),
  },
  { name: 'requests', title: 'IOPS', by: requests, words: disk => some(requests(disk)), wide: true },
  { name: 'p99', title: 'p99', by: disk => disk.get('p99'), words: disk => time(disk.get('p99')) },
  {
    name: 'minute',
    title: 'Minute',
    by: ({ recent }) => recent.reduce((sum, each) => sum + each, 0),
    wide: true,
  },
]

function requests({ row }: Disk): number {
  return numberOf(row, 'reads') + numberOf(row, 'writes') + numberOf(row, 'others')
}

function rate(value: number): string {
  return value === 0 ? '–' : bytes(value)
}

function some(value: number): string {
  return value === 0 ? '–' : count(value)
}

/** A row that is in sight. */
interface Seen {
  readonly row: HTMLElement
  readonly cells: readonly HTMLElement[]
  readonly chart: CanvasRenderingContext2D | null
  shown: Disk | undefined
  /** How it looks, and at which second. */
  look: string
  steps: number
}

/** Where there is room for all columns: as in the style. */
const WIDE = matchMedia('(min-width: 40.01rem)')

/** All disks. Only the rows in sight are in the page, however many disks there are. */
export class List {
  readonly #grid = get('list')
  readonly #rows: HTMLElement
  readonly #seen: Seen[] = []
  readonly #chosen: (id: number | undefined) => void
  #disks: readonly Disk[] = []
  #sorted: Disk[] = []
  #column: Column = COLUMNS[0] as Column
  #reversed = false
  /** The row that the keyboard is at. */
  #at: number | undefined
  #selected: number | undefined
  #colours = coloursOfNow()

  /** @param chosen - Called with the number of a disk that is to be shown, or nothing for all. */
  constructor(chosen: (id: number | undefined) => void) {
    this.#chosen = chosen
    this.#rows = this.#grid.querySelector('.rows') as HTMLElement
    const head = this.#grid.querySelector('.head') as HTMLElement
    for (const column of COLUMNS) head.append(this.#header(column))
    this.#grid.setAttribute('aria-colcount', `${COLUMNS.length}`)
    this.#grid.addEventListener('scroll', () => requestAnimationFrame(() => this.draw()), { passive: true })
    this.#grid.addEventListener('keydown', event => this.#key(event))
    this.#rows.addEventListener('click', event => {
      const row = (event.target as HTMLElement).closest('.row')
      const disk = this.#seen.find(seen => seen.row === row)?.shown
      if (disk) this.#choose(disk)
    })
    get<HTMLInputElement>('filter').addEventListener('input', () => this.sort())
    new ResizeObserver(() => this.draw()).observe(this.#grid)
    const again = (): void => {
      this.#colours = coloursOfNow()
      for (const seen of this.#seen) seen.steps = -1
      this.draw()
    }
    WIDE.addEventListener('change', again)
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again)
  }

  /** Other disks, or disks that are not as they were. */
  set(disks: Iterable<Disk>): void {
    this.#disks = [...disks]
    this.sort()
  }

  /** Says which disk is shown. */
  select(id: number | undefined): void {
    this.#selected = id
    if (id !== undefined) this.#at = id
    this.draw()
  }

  /** Puts the disks in order again. */
  sort(): void {
    const words = get<HTMLInputElement>('filter').value.toLowerCase().split(/\s+/).filter(Boolean)
    const matches = ({ about }: Disk): boolean => {
      const text =
        `${about.name} ${about.state} ${about.backend} ${about.source} ${about.trouble ?? ''}`.toLowerCase()
      return words.every(word => text.includes(word))
    }
    const { by } = this.#column
    const sign = this.#reversed ? -1 : 1
    const keyed = this.#disks.filter(matches).map(disk => ({ disk, key: by(disk) }))
    keyed.sort((a, b) => sign * compare(a.key, b.key) || a.disk.about.id - b.disk.about.id)
    this.#sorted = keyed.map(({ disk }) => disk)
    this.#grid.setAttribute('aria-rowcount', `${this.#sorted.length + 1}`)
    this.#rows.style.height = `${this.#sorted.length * HEIGHT}px`
    const all = this.#disks.length
    say(get('shown'), this.#sorted.length === all ? '' : `${this.#sorted.length} of ${all}`)
    this.draw()
  }

  /** Whether the order changes from second to second. */
  get moves(): boolean {
    return this.#column.name !== 'disk' && this.#column.name !== 'state'
  }

  /** Draws what is in sight. */
  draw(): void {
    const { scrollTop, clientHeight } = this.#grid
    const first = Math.max(Math.floor(scrollTop / HEIGHT) - SPARE, 0)
    const last = Math.min(Math.ceil((scrollTop + clientHeight) / HEIGHT) + SPARE, this.#sorted.length)
    const wanted = Math.max(last - first, 0)
    while (this.#seen.length < wanted) this.#seen.push(this.#row())
    for (const { row } of this.#seen.splice(wanted)) row.remove()
    for (const [place, seen] of this.#seen.entries()) this.#fill(seen, first + place)
    const at = this.#seen.find(({ shown }) => shown && shown.about.id === this.#at)
    if (at) this.#grid.setAttribute('aria-activedescendant', at.row.id)
    else this.#grid.removeAttribute('aria-activedescendant')
  }

  /** Touches only what is not as it was: a list that is scrolled has little time for each row. */
  #fill(seen: Seen, index: number): void {
    const disk = this.#sorted[index]
    if (!disk) return
    const { row, cells, chart } = seen
    const { id, trouble, state } = disk.about
    const look = `${index} ${id === this.#selected} ${id === this.#at} ${state} ${trouble}`
    if (seen.shown !== disk) row.id = `disk-${id}`
    if (seen.shown !== disk || seen.look !== look) {
      row.title = trouble ?? `${disk.about.backend} ${disk.about.source}`
      row.style.transform = `translateY(${index * HEIGHT}px)`
      row.setAttribute('aria-rowindex', `${index + 2}`)
      row.setAttribute('aria-selected', `${id === this.#selected}`)
      row.classList.toggle('at', id === this.#at)
      cells[1]?.classList.toggle('bad', trouble !== null || state !== 'live')
    }
    if (seen.shown !== disk || seen.steps !== disk.steps) {
      for (const [at, { words }] of COLUMNS.entries()) {
        const cell = cells[at]
        if (cell && words) say(cell, words(disk))
      }
      if (chart && WIDE.matches) drawRecent(chart, disk.recent, this.#colours)
    }
    Object.assign(seen, { shown: disk, look, steps: disk.steps })
  }

  #row(): Seen {
    const row = element('div', { class: 'row', role: 'row' })
    const cells = COLUMNS.map(({ wide }, at) => {
      const classes = [wide ? 'w' : '', at > 1 ? 'n' : ''].join(' ').trim()
      return element('span', { role: 'gridcell', ...(classes ? { class: classes } : {}) })
    })
    const canvas = element('canvas', { width: '160', height: '44', 'aria-hidden': 'true' })
    cells.at(-1)?.append(canvas)
    row.append(...cells)
    this.#rows.append(row)
    return { row, cells, chart: canvas.getContext('2d'), shown: undefined, look: '', steps: -1 }
  }

  #header(column: Column): HTMLElement {
    const button = element('button', { type: 'button', text: column.title })
    const at = COLUMNS.indexOf(column)
    const classes = [column.wide ? 'w' : '', at > 1 ? 'n' : ''].join(' ').trim()
    const header = element('span', { role: 'columnheader', ...(classes ? { class: classes } : {}) }, button)
    const tell = (): void => {
      for (const [place, each] of [...(header.parentElement?.children ?? [])].entries()) {
        const chosen = COLUMNS[place] === this.#column
        const rises = place < 2 !== this.#reversed
        if (chosen) each.setAttribute('aria-sort', rises ? 'ascending' : 'descending')
        else each.removeAttribute('aria-sort')
      }
    }
    if (column === this.#column) header.setAttribute('aria-sort', 'ascending')
    button.addEventListener('click', () => {
      this.#reversed = column === this.#column && !this.#reversed
      this.#column = column
      tell()
      this.sort()
    })
    return header
  }

  #choose(disk: Disk): void {
    this.#at = disk.about.id
    this.#chosen(disk.about.id)
  }

  #key(event: KeyboardEvent): void {
    if (event.target !== this.#grid || event.ctrlKey || event.altKey || event.metaKey) return
    const last = this.#sorted.length - 1
    const page = Math.max(Math.floor(this.#grid.clientHeight / HEIGHT) - 2, 1)
    const now = this.#sorted.findIndex(({ about }) => about.id === this.#at)
    const goals: Record<string, number> = {
      ArrowDown: now + 1,
      ArrowUp: now < 0 ? 0 : now - 1,
      PageDown: now + page,
      PageUp: now - page,
      Home: 0,
      End: last,
    }
    const goal = goals[event.key]
    if (goal !== undefined) this.#go(Math.min(Math.max(goal, 0), last))
    else if (event.key === 'Enter' || event.key === ' ') {
      const disk = this.#sorted[now]
      if (disk) this.#choose(disk)
    } else if (event.key === 'Escape') this.#chosen(undefined)
    else return
    event.preventDefault()
  }

  #go(index: number): void {
    const disk = this.#sorted[index]
    if (!disk) return
    this.#at = disk.about.id
    const [top, bottom] = [index * HEIGHT, (index + 2) * HEIGHT] // below the head, which stays in sight
    const { scrollTop, clientHeight } = this.#grid
    if (top < scrollTop) this.#grid.scrollTop = top
    else if (bottom > scrollTop + clientHeight) this.#grid.scrollTop = bottom - clientHeight
    this.draw()
  }
}

function compare(a: string | number, b: string | number): number {
  if (typeof a === 'number' && typeof b === 'number') return b - a
  return String(a).localeCompare(String(b), 'en', { numeric: true })
}

function coloursOfNow(): { line: string; soft: string } {
  return { line: colour('read'), soft: colour('line') }
}

function drawRecent(
  chart: CanvasRenderingContext2D,
  recent: Float32Array,
  colours: { line: string; soft: string },
): void {
  const { width, height } = chart.canvas
  chart.clearRect(0, 0, width, height)
  const most = Math.max(...recent)
  chart.fillStyle = colours.soft
  chart.fillRect(0, height - 2, width, 2)
  if (most === 0) return
  chart.fillStyle = colours.line
  const step = width / recent.length
  for (const [at, value] of recent.entries()) {
    const high = (value / most) * (height - 4)
    if (value > 0) chart.fillRect(at * step, height - 2 - Math.max(high, 2), step - 0.5, Math.max(high, 2))
  }
}
