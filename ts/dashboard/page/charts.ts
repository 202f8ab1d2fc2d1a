import uPlot from 'uplot'
import type { Field } from '../protocol.js'
import { type Series, SHOWN } from './store.js'
import { bytes, colour, count, element, get, time } from './words.js'

interface Line {
  readonly label: string
  readonly field: Field
  /** A colour of the style. */
  readonly stroke: string
  /** Lines differ by more than their colour. */
  readonly dash?: number[]
}

interface Kind {
  readonly title: string
  readonly lines: readonly Line[]
  readonly words: (value: number) => string
  /** The distances of its lines. */
  readonly steps?: number[]
}

/** Of bytes: people know these. */
const POWERS = Array.from({ length: 50 }, (_, power) => 2 ** power)

const KINDS: readonly Kind[] = [
  {
    title: 'Throughput, per second',
    words: bytes,
    steps: POWERS,
    lines: [
      { label: 'read', field: 'readBytes', stroke: 'read' },
      { label: 'written', field: 'writeBytes', stroke: 'write', dash: [6, 3] },
    ],
  },
  {
    title: 'Requests, per second',
    words: count,
    lines: [
      { label: 'reads', field: 'reads', stroke: 'read' },
      { label: 'writes', field: 'writes', stroke: 'write', dash: [6, 3] },
      { label: 'others', field: 'others', stroke: 'other', dash: [2, 3] },
    ],
  },
  {
    title: 'Service time of reads and writes',
    words: time,
    lines: [
      { label: 'median', field: 'p50', stroke: 'read' },
      { label: '99th percentile', field: 'p99', stroke: 'write', dash: [6, 3] },
    ],
  },
]

/** How many seconds are shown at least. */
const LEAST = 60

const HEIGHT = 150

/** The charts of a disk, or of all. */
export class Charts {
  #plots: { readonly plot: uPlot; readonly kind: Kind; readonly box: HTMLElement }[] = []
  #series: Series | undefined

  constructor() {
    this.#make()
    const again = (): void => {
      for (const { plot } of this.#plots) plot.destroy()
      this.#make()
      if (this.#series) this.show(this.#series)
    }
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again)
    new ResizeObserver(() => this.#fit()).observe(get('charts'))
  }

  /** Shows these numbers. */
  show(series: Series): void {
    this.#series = series
    const seconds = series.times.map(at => at / 1000)
    const last = seconds.at(-1) ?? 0
    for (const { plot, kind, box } of this.#plots) {
      plot.setData([seconds, ...kind.lines.map(({ field }) => series.of(field))] as uPlot.AlignedData, false)
      plot.setScale('x', {
        min: Math.max(last - SHOWN + 1, Math.min(seconds[0] ?? last, last - LEAST)),
        max: last,
      })
      const now = kind.lines.map(({ label, field }) => `${label} ${kind.words(series.of(field).at(-1) ?? 0)}`)
      box.setAttribute('aria-label', `${kind.title}, in the last five minutes. Now: ${now.join(', ')}`)
    }
  }

  #make(): void {
    const place = get('charts')
    place.replaceChildren()
    this.#plots = KINDS.map(kind => {
      const box = element('div', { class: 'chart', role: 'figure', 'aria-label': kind.title })
      box.append(element('h3', { text: kind.title }))
      place.append(box)
      return {
        kind,
        box,
        plot: new uPlot(optionsOf(kind, widthOf(box)), [[], ...kind.lines.map(() => [])], box),
      }
    })
  }

  #fit(): void {
    for (const { plot, box } of this.#plots) {
      const width = widthOf(box)
      if (width !== plot.width) plot.setSize({ width, height: HEIGHT })
    }
  }
}

function widthOf(box: HTMLElement): number {
  return Math.max(box.clientWidth - 16, 100)
}

function optionsOf(kind: Kind, width: number): uPlot.Options {
  const [soft, line] = [colour('soft'), colour('line')]
  const words = (value: number | null | undefined): string => (value == null ? '–' : kind.words(value))
  const axis = {
    stroke: soft,
    font: '11px system-ui, sans-serif',
    grid: { stroke: line, width: 1 },
    ticks: { show: false },
  }
  return {
    width,
    height: HEIGHT,
    legend: { live: true },
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    scales: { x: { time: true }, y: { range: (_, __, max) => [0, Math.max(max * 1.08, 1)] } },
    axes: [
      { ...axis, size: 28, space: 90, values: (_, times) => times.map(clock) },
      {
        ...axis,
        size: 62,
        space: 28,
        ...(kind.steps ? { incrs: kind.steps } : {}),
        values: (_, numbers) => numbers.map(number => (number === 0 ? '0' : kind.words(number))),
      },
    ],
    series: [
      { label: 'at', value: (_, at) => (at == null ? '–' : clock(at)) },
      ...kind.lines.map(({ label, stroke, dash }) => ({
        label,
        stroke: colour(stroke),
        width: 1.6,
        ...(dash ? { dash } : {}),
        points: { show: false },
        value: (_: uPlot, value: number | null) => words(value),
      })),
    ],
  }
}

function clock(seconds: number): string {
  return new Date(seconds * 1000).toTimeString().slice(0, 8)
}
