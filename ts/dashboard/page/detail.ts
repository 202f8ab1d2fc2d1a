import type { Action, Detail, FaultLine, FileSize, Layer, StackPart } from '../protocol.js'
import { type Disk, numberOf } from './store.js'
import { post } from './token.js'
import { bytes, count, element, get, say, time } from './words.js'

/** Numbers of a disk, or of all, at a glance. */
export function showTiles(row: Disk['row']): void {
  const tiles: [name: string, value: string, bad?: boolean][] = [
    ['Read/s', bytes(numberOf(row, 'readBytes'))],
    ['Written/s', bytes(numberOf(row, 'writeBytes'))],
    ['Reads/s', count(numberOf(row, 'reads'))],
    ['Writes/s', count(numberOf(row, 'writes'))],
    ['Median', time(numberOf(row, 'p50'))],
    ['99 %', time(numberOf(row, 'p99'))],
    ['In flight', count(numberOf(row, 'inFlight'))],
    ['Errors/s', count(numberOf(row, 'errors')), numberOf(row, 'errors') > 0],
    ['Faults/s', count(numberOf(row, 'faults')), numberOf(row, 'faults') > 0],
  ]
  const place = get('tiles')
  if (place.childElementCount !== tiles.length) {
    place.replaceChildren(
      ...tiles.map(([name]) => element('div', {}, element('dt', { text: name }), element('dd'))),
    )
  }
  for (const [at, [, value, bad = false]] of tiles.entries()) {
    const tile = place.children[at]
    tile?.classList.toggle('bad', bad)
    if (tile?.lastChild) say(tile.lastChild, value)
  }
}

/** What a disk is, in a line. */
export function showAbout(disk: Disk | undefined): void {
  const trouble = get('trouble')
  trouble.hidden = !disk?.about.trouble
  say(trouble, disk?.about.trouble ? `It cannot be read: ${disk.about.trouble}` : '')
  if (!disk) {
    say(get('about'), '')
    return
  }
  const { state, size, readOnly, backend, source } = disk.about
  const words = [
    state,
    size > 0 ? bytes(size) : '',
    readOnly ? 'read-only' : '',
    `${backend} ${source}`.trim(),
  ]
  say(get('about'), words.filter(Boolean).join(' · '))
}

/** Of what a disk is made, what is fetched, and its faults. */
export class Details {
  #applied = new Map<string, number>()

  reset(): void {
    this.#applied.clear()
    say(get('done'), '')
  }

  show({ stack, layers, lazy, faults }: Detail, mayChange: boolean): void {
    get('stack-s').hidden = stack.length === 0
    fill('stack', ['Backend', 'File', 'Size', 'On disk'], [...stackRows(stack, layers)])
    get('lazy-s').hidden = !lazy
    if (lazy) {
      const part = lazy.size > 0 ? (lazy.present / lazy.size) * 100 : 0
      get<HTMLProgressElement>('fetched').value = part
      const words = [
        `${part.toFixed(part > 0 && part < 10 ? 1 : 0)} % of ${bytes(lazy.size)} is there`,
        lazy.dirty === null ? '' : `clients wrote ${bytes(lazy.dirty)} of it`,
        lazy.max === null ? '' : `the cache holds at most ${bytes(lazy.max)}`,
        `${bytes(lazy.fetched)} fetched in ${count(lazy.fetches)} requests`,
        lazy.failures > 0 ? `${count(lazy.failures)} failed` : '',
        lazy.evicted > 0 ? `${bytes(lazy.evicted)} evicted` : '',
        `background: ${lazy.filling}`,
      ]
      say(get('lazy'), `${words.filter(Boolean).join('; ')}.`)
    }
    get('faults-s').hidden = !faults
    if (!faults) return
    fill(
      'faults',
      ['Rule', 'Applied', 'Considered', ''],
      faults.rules.map(line => this.#faultRow(line)),
    )
    const none = faults.rules.length === 0 ? 'There are no rules. ' : ''
    say(get('hanging'), `${none}${count(faults.hanging)} requests hang.`)
    get('actions').hidden = !mayChange
  }

  #faultRow({ rule, ofProfile, considered, applied }: FaultLine): HTMLTableRowElement {
    const before = this.#applied.get(rule) ?? applied
    this.#applied.set(rule, applied)
    const fires = applied > before
    return element(
      'tr',
      fires ? { class: 'fires' } : {},
      element('td', { class: 'path', text: ofProfile ? `${rule} (profile)` : rule }),
      element('td', { class: 'n', text: count(applied) }),
      element('td', { class: 'n', text: count(considered) }),
      element('td', { text: fires ? 'fires' : '' }),
    )
  }
}

/** Has buttons ask the server for something. */
export function addActions(path: () => string | undefined): void {
  get('actions').addEventListener('click', async event => {
    const action = (event.target as HTMLButtonElement).value as Action | undefined
    const disk = path()
    if (!action || disk === undefined) return
    const response = await post(`${disk}/${action}`).catch(() => undefined)
    const why = response?.ok ? 'Done.' : ((await response?.text()) ?? 'The server does not answer.')
    say(get('done'), why.trim())
  })
}

function* stackRows(stack: readonly StackPart[], layers: readonly Layer[]): Generator<HTMLTableRowElement> {
  for (const { level, kind, label, files } of stack) {
    const [first, ...others] = kind === 'overlay' ? [] : files
    yield stackRow(level, kind, first ?? label, first)
    for (const file of others) yield stackRow(level + 1, '', file, file)
    if (kind !== 'overlay') continue
    for (const [at, { path, bytes: size, written }] of [...layers.entries()].reverse()) {
      const name = written ? 'upper, written' : `snapshot ${at + 1}`
      yield stackRow(level + 1, name, path ?? 'in memory', { size: null, bytes: path === null ? null : size })
    }
  }
}

function stackRow(
  level: number,
  kind: string,
  what: FileSize | string,
  file: Pick<FileSize, 'size' | 'bytes'> | undefined,
): HTMLTableRowElement {
  const name = element('td', { text: `${'\u2003'.repeat(level)}${kind}` })
  const number = (value: number | null | undefined): HTMLElement =>
    element('td', { class: 'n', text: value == null ? '' : bytes(value) })
  const path = element('td', { class: 'path', text: typeof what === 'string' ? what : what.path })
  return element('tr', {}, name, path, number(file?.size), number(file?.bytes))
}

/** Replaces a table, if it is not as it was. */
function fill(id: string, heads: readonly string[], rows: readonly HTMLTableRowElement[]): void {
  const table = get<HTMLTableElement>(id)
  const body = element('tbody', {}, ...rows)
  if (table.tBodies[0]?.isEqualNode(body)) return
  const numbers = ['Size', 'On disk', 'Applied', 'Considered']
  const head = heads.map(text =>
    text === ''
      ? element('td')
      : element('th', { scope: 'col', text, ...(numbers.includes(text) ? { class: 'n' } : {}) }),
  )
  table.replaceChildren(element('thead', {}, element('tr', {}, ...head)), body)
}
