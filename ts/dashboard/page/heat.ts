import type { HeatPart } from '../../info.js'
import { bytes, colour, count, element, get, say } from './words.js'

/** What a map can show. */
interface Kind {
  readonly name: string
  readonly label: string
  /** Colours of the style: of the first of its numbers, and the second. */
  readonly colours: readonly string[]
  readonly scale: string
}

const KINDS: readonly Kind[] = [
  { name: 'both', label: 'read and written', colours: ['read', 'write'], scale: 'much, in the last minute' },
  { name: 'read', label: 'read', colours: ['read'], scale: 'much read, in the last minute' },
  { name: 'written', label: 'written', colours: ['write'], scale: 'much written, in the last minute' },
  { name: 'faults', label: 'faults', colours: ['bad'], scale: 'many faults, in the last minute' },
  { name: 'present', label: 'fetched', colours: ['good'], scale: 'all of it is in the cache' },
  { name: 'dirty', label: 'dirty', colours: ['write'], scale: 'clients wrote all of it' },
  {
    name: 'layered',
    label: 'over the base',
    colours: ['other'],
    scale: 'all of it was written over the base',
  },
]

/** How much of what was done is left of it each second: after a minute, a twentieth. */
const COOLING = 0.95
const MOST_COLUMNS = 128
const FEW_COLUMNS = 64

type Maps = 'present' | 'dirty' | 'layered'

/** The map of a disk's blocks. */
export class Heat {
  readonly #canvas = get<HTMLCanvasElement>('heat')
  readonly #form = get<HTMLFormElement>('kinds')
  #kind: Kind = KINDS[0] as Kind
  #part: HeatPart | undefined
  #cells = 0
  #columns = FEW_COLUMNS
  /** By cell: what was done lately, and since the page looks. */
  #read = new Float64Array()
  #written = new Float64Array()
  #faults = new Float64Array()
  #sums = { read: new Float64Array(), written: new Float64Array(), faults: new Float64Array() }
  #lost = 0
  #maps: { [name in Maps]?: Uint8Array } = {}
  #at: number | undefined
  #asked = false

  constructor() {
    this.#form.addEventListener('change', () => {
      const name = new FormData(this.#form).get('kind')
      this.#kind = KINDS.find(kind => kind.name === name) ?? this.#kind
      this.#draw()
    })
    this.#canvas.addEventListener('pointermove', event => this.#point(event))
    this.#canvas.addEventListener('pointerdown', event => this.#point(event))
    this.#canvas.addEventListener('keydown', event => this.#key(event))
    this.#canvas.addEventListener('blur', () => this.#go(undefined))
    new ResizeObserver(() => this.#draw()).observe(get('map'))
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#draw())
    this.reset()
  }

  /** Another disk. */
  reset(): void {
    this.#part = undefined
    this.#cells = 0
    this.#maps = {}
    this.#lost = 0
    this.#at = undefined
    get('here').hidden = true
    this.#offer(false)
    say(get('cell'), 'Waiting for the server of this disk …')
    this.#draw()
  }

  /** Why nothing comes. */
  fail(why: string): void {
    if (!this.#part) say(get('cell'), `Nothing is known: ${why}`)
  }

  /** What was done in a second. */
  take(part: HeatPart, faults: boolean): void {
    if (part.cell !== this.#part?.cell || part.size !== this.#part.size) this.#begin(part)
    this.#part = part
    for (const numbers of [this.#read, this.#written, this.#faults]) {
      for (let at = 0; at < numbers.length; at++) numbers[at] = (numbers[at] ?? 0) * COOLING
    }
    for (let at = 0; at < part.counts.length; at += 4) {
      const [cell = 0, read = 0, written = 0, faults = 0] = part.counts.slice(at, at + 4)
      add(this.#read, this.#sums.read, cell, read)
      add(this.#written, this.#sums.written, cell, written)
      add(this.#faults, this.#sums.faults, cell, faults)
    }
    this.#lost += part.lost
    for (const name of ['present', 'dirty', 'layered'] as const) {
      const text = part[name]
      if (text === null) delete this.#maps[name]
      else if (text !== undefined) this.#maps[name] = Uint8Array.from(atob(text), each => each.charCodeAt(0))
    }
    this.#offer(faults)
    this.#draw()
    this.#tell()
  }

  #begin({ size, cell }: HeatPart): void {
    this.#cells = Math.ceil(size / cell)
    const numbers = (): Float64Array<ArrayBuffer> => new Float64Array(this.#cells)
    ;[this.#read, this.#written, this.#faults] = [numbers(), numbers(), numbers()]
    this.#sums = { read: numbers(), written: numbers(), faults: numbers() }
  }

  /** The maps that this disk has. */
  #offer(faults: boolean): void {
    const possible = ({ name }: Kind): boolean =>
      name === 'faults' ? faults : ['both', 'read', 'written'].includes(name) || name in this.#maps
    const kinds = KINDS.filter(possible)
    const text = kinds.map(({ name }) => name).join()
    if (this.#form.dataset['kinds'] === text) return
    this.#form.dataset['kinds'] = text
    if (!kinds.includes(this.#kind)) this.#kind = KINDS[0] as Kind
    const field = this.#form.querySelector('fieldset') as HTMLElement
    for (const label of [...field.querySelectorAll('label')]) label.remove()
    for (const kind of kinds) {
      const input = element('input', { type: 'radio', name: 'kind', value: kind.name })
      input.checked = kind === this.#kind
      field.append(element('label', {}, input, element('span', { text: kind.label })))
    }
  }

  /** At most one drawing a frame. */
  #draw(): void {
    if (this.#asked) return
    this.#asked = true
    requestAnimationFrame(() => {
      this.#asked = false
      this.#paint()
    })
  }

  #paint(): void {
    const canvas = this.#canvas
    this.#columns = canvas.clientWidth >= 640 ? MOST_COLUMNS : FEW_COLUMNS
    const rows = Math.max(Math.ceil(this.#cells / this.#columns), 1)
    if (canvas.width !== this.#columns || canvas.height !== rows) {
      canvas.width = this.#columns
      canvas.height = rows
    }
    canvas.style.aspectRatio = `${this.#columns} / ${Math.max(rows, 8)}`
    const context = canvas.getContext('2d')
    if (!context) return
    const image = context.createImageData(this.#columns, rows)
    const empty = rgb(colour('cell'))
    const inks = this.#kind.colours.map(name => rgb(colour(name)))
    const layers = this.#shares()
    for (let cell = 0; cell < this.#cells; cell++) {
      const [first = 0, second = 0] = layers.map(share => share(cell))
      const strength = Math.max(first, second)
      const ink = mixed(
        inks[0] ?? empty,
        inks[1] ?? empty,
        first + second > 0 ? second / (first + second) : 0,
      )
      const [red, green, blue] = mixed(empty, ink, strength)
      image.data.set([red, green, blue, 255], cell * 4)
    }
    context.putImageData(image, 0, 0)
    this.#mark()
    this.#legend()
  }

  /** For each colour: how strong it is in a cell, 0 to 1. */
  #shares(): ((cell: number) => number)[] {
    const { name } = this.#kind
    if (name === 'present' || name === 'dirty' || name === 'layered') {
      const map = this.#maps[name]
      return [cell => (map?.[cell] ?? 0) / 255]
    }
    const all = {
      both: [this.#read, this.#written],
      read: [this.#read],
      written: [this.#written],
      faults: [this.#faults],
    }
    const numbers = all[name as keyof typeof all] ?? []
    // By the logarithm: what is done little is seen beside what is done much.
    const most = Math.log1p(Math.max(...numbers.map(each => each.reduce((a, b) => Math.max(a, b), 0))))
    return numbers.map(each => cell => {
      const value = each[cell] ?? 0
      return value < 1e-3 || most === 0 ? 0 : 0.25 + (0.75 * Math.log1p(value)) / most
    })
  }

  #legend(): void {
    const names = this.#kind.name === 'both' ? ['read', 'written'] : [this.#kind.scale]
    const place = get('scale')
    const text = `${this.#kind.name} ${colour('cell')}`
    if (place.dataset['shown'] === text) return
    place.dataset['shown'] = text
    place.replaceChildren(
      ...names.map((name, at) => {
        const bar = element('i', { 'aria-hidden': 'true' })
        bar.style.background = `linear-gradient(90deg, var(--cell), var(--${this.#kind.colours[at]}))`
        return element('span', {}, document.createTextNode('none'), bar, document.createTextNode(name))
      }),
    )
  }

  #point(event: PointerEvent): void {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect()
    const rows = this.#canvas.height
    const column = Math.floor(((event.clientX - left) / width) * this.#columns)
    const row = Math.floor(((event.clientY - top) / height) * rows)
    const cell = row * this.#columns + column
    this.#go(cell >= 0 && cell < this.#cells ? cell : undefined)
  }

  #key(event: KeyboardEvent): void {
    const at = this.#at ?? 0
    const steps: Record<string, number> = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: at + this.#columns,
      ArrowUp: at - this.#columns,
      Home: 0,
      End: this.#cells - 1,
    }
    const goal = steps[event.key]
    if (goal === undefined || this.#cells === 0) return
    event.preventDefault()
    this.#go(Math.min(Math.max(this.#at === undefined ? 0 : goal, 0), this.#cells - 1))
  }

  #go(cell: number | undefined): void {
    this.#at = cell
    this.#mark()
    this.#tell()
  }

  #mark(): void {
    const here = get('here')
    here.hidden = this.#at === undefined
    if (this.#at === undefined) return
    const [width, height] = [
      this.#canvas.clientWidth / this.#columns,
      this.#canvas.clientHeight / this.#canvas.height,
    ]
    here.style.width = `${width + 4}px`
    here.style.height = `${height + 4}px`
    here.style.left = `${(this.#at % this.#columns) * width - 2}px`
    here.style.top = `${Math.floor(this.#at / this.#columns) * height - 2}px`
  }

  #tell(): void {
    const part = this.#part
    if (!part) return
    const cell = this.#at
    if (cell === undefined) {
      const lost = this.#lost > 0 ? ` ${count(this.#lost)} requests came too fast to be counted.` : ''
      say(
        get('cell'),
        `Each of ${this.#cells} cells is ${bytes(part.cell)}. Point at one, or use the arrow keys.${lost}`,
      )
      return
    }
    const [from, to] = [cell * part.cell, Math.min((cell + 1) * part.cell, part.size)]
    const done = [
      `read ${bytes(this.#sums.read[cell] ?? 0)}`,
      `written ${bytes(this.#sums.written[cell] ?? 0)}`,
      ...(this.#sums.faults[cell] ? [`faults ${count(this.#sums.faults[cell])}`] : []),
    ]
    const share = (name: Maps): string[] => {
      const value = this.#maps[name]?.[cell]
      const label = KINDS.find(kind => kind.name === name)?.label
      return value === undefined ? [] : [`${label} ${percent(value)}`]
    }
    const parts = [...done, ...share('present'), ...share('dirty'), ...share('layered')]
    say(
      get('cell'),
      `Bytes ${from} to ${to - 1} (${bytes(from)}): ${parts.join(', ')}, since this page looks.`,
    )
  }
}

/** Only none is 0 %, and only all is 100 %. */
function percent(byte: number): string {
  if (byte === 0 || byte === 255) return byte === 0 ? 'none' : 'all'
  return `${Math.min(Math.max(Math.round((byte * 100) / 255), 1), 99)} %`
}

function add(recent: Float64Array, sums: Float64Array, cell: number, value: number): void {
  if (cell >= recent.length) return
  recent[cell] = (recent[cell] ?? 0) + value
  sums[cell] = (sums[cell] ?? 0) + value
}

type Rgb = readonly [number, number, number]

function rgb(hex: string): Rgb {
  const digits = hex.length === 4 ? hex.replace(/[0-9a-f]/gi, '$&$&') : hex
  const at = (place: number): number => Number.parseInt(digits.slice(place, place + 2), 16) || 0
  return [at(1), at(3), at(5)]
}

function mixed([a, b, c]: Rgb, [d, e, f]: Rgb, part: number): Rgb {
  return [a + (d - a) * part, b + (e - b) * part, c + (f - c) * part]
}
