/** The page of the dashboard: what it gets from its server goes to the list, the charts and the map. */
import type { Detail, Disk as DiskEvent, Disks, Heat as HeatEvent, Tick } from '../protocol.js'
import { Charts } from './charts.js'
import { addActions, Details, showAbout, showTiles } from './detail.js'
import { Heat } from './heat.js'
import { List } from './list.js'
import { Series, Store } from './store.js'
import { eventsOf, takeToken } from './token.js'
import { get, say } from './words.js'

const store = new Store()
const charts = new Charts()
const heat = new Heat()
const details = new Details()
const list = new List(choose)

takeToken()

let mayChange = false
/** The disk that is shown, by its name, which stays in the address; nothing: all. */
let chosen = nameInAddress()
let one = new Series()
let faulty = false
let looking: { readonly id: number; readonly events: EventSource } | undefined

function nameInAddress(): string | undefined {
  const name = location.hash.slice(1)
  try {
    return decodeURIComponent(name) || undefined
  } catch {
    return name // It is no name of a disk.
  }
}

function choose(id: number | undefined): void {
  const disk = id === undefined ? undefined : store.disks.get(id)
  chosen = disk?.about.name
  history.replaceState(null, '', chosen === undefined ? location.pathname : `#${encodeURIComponent(chosen)}`)
  look()
  draw()
}

function chosenDisk() {
  for (const disk of store.disks.values()) if (disk.about.name === chosen) return disk
  return undefined
}

/** Subscribes to the events of the disk that is shown while the page is visible. */
function look(): void {
  const id = document.hidden ? undefined : chosenDisk()?.about.id
  if (looking?.id === id) return
  looking?.events.close()
  looking = undefined
  heat.reset()
  details.reset()
  one = new Series()
  faulty = false
  if (id === undefined) return
  const events = eventsOf(`/disks/${id}/events`)
  looking = { id, events }
  on<DiskEvent>(events, 'disk', ({ detail, past }) => {
    one.reset(past)
    showDetail(detail)
    draw()
  })
  on<Detail>(events, 'detail', showDetail)
  on<HeatEvent>(events, 'heat', ({ part, trouble }) => {
    if (part) heat.take(part, faulty)
    else heat.fail(trouble)
  })
}

function showDetail(detail: Detail): void {
  faulty = detail.faults !== null
  details.show(detail, mayChange)
}

function on<Data>(events: EventSource, name: string, take: (data: Data) => void): void {
  events.addEventListener(name, event => take(JSON.parse((event as MessageEvent<string>).data)))
}

/** Draws what does not draw itself. */
function draw(): void {
  const disk = chosenDisk()
  const id = disk?.about.id
  say(get('one-h'), disk ? disk.about.name : 'All disks')
  document.title = `${disk ? disk.about.name : 'Disks'} – ublk-ts`
  get('back').hidden = !disk
  get('more').hidden = !disk
  showAbout(disk)
  showTiles(disk ? disk.row : store.total)
  charts.show(disk ? one : store.all)
  list.select(id)
}

function tell(trouble: string | null): void {
  const busy = [...store.disks.values()].filter(disk => disk.get('reads') + disk.get('writes') > 0).length
  const { size } = store.disks
  const words =
    size === 0
      ? 'No disks'
      : `${size.toLocaleString('en')} ${size === 1 ? 'disk' : 'disks'}, ${busy.toLocaleString('en')} busy`
  const state = get('state')
  state.classList.toggle('off', trouble !== null)
  say(state, trouble ?? `${words}${mayChange ? '' : ' · only to look at'}`)
}

let all: EventSource | undefined

/** Subscribes to the events of all disks while the page is visible. */
function lookAtAll(): void {
  if (document.hidden === (all === undefined)) return
  all?.close()
  all = undefined
  if (document.hidden) return
  const events = eventsOf('/events')
  all = events
  on<Disks>(events, 'disks', disks => {
    store.reset(disks)
    mayChange = disks.mayChange
    say(get('host'), `of ${disks.host}, ublk-ts ${disks.version}`)
    list.set(store.disks.values())
    tell(null)
    look()
    draw()
  })
  on<Tick>(events, 'tick', tick => {
    if (tick.trouble !== null) return tell(`The disks cannot be read: ${tick.trouble}`)
    const changed = store.apply(tick)
    const disk = chosenDisk()
    if (disk) one.add(tick.time, disk.row)
    if (changed) list.set(store.disks.values())
    else if (list.moves) list.sort()
    tell(null)
    if (changed) look()
    draw()
  })
  events.addEventListener('error', () => {
    tell(
      events.readyState === EventSource.CLOSED
        ? 'The server does not serve this page: open the URL that was printed when the dashboard was started last.'
        : 'The server does not answer. Trying again …',
    )
  })
}

lookAtAll()

get('back').addEventListener('click', () => {
  choose(undefined)
  get('list').focus()
})
addActions(() => (looking ? `/disks/${looking.id}` : undefined))
document.addEventListener('visibilitychange', () => {
  lookAtAll()
  look()
})
addEventListener('hashchange', () => {
  // The URL of the next dashboard at this port, in the same tab.
  if (takeToken()) return location.reload()
  chosen = nameInAddress()
  look()
  draw()
})
