/**
 * What moves in a report: the filter of the table, and what is shown of a write that is pointed at. Without it the page can be read
 * as a whole. It takes all it needs from the page, so that it is the same in all reports.
 */
export const SCRIPT = `'use strict'
const get = id => document.getElementById(id)
const rows = [...get('all').tBodies[0].rows]
const form = get('filter'), tl = get('tl'), here = get('here'), detail = get('detail'), heat = get('heat')
const nothing = detail.textContent
form.hidden = false

// The nth part of a path is the nth row with its classes.
const boxes = new Map()
for (const path of tl.querySelectorAll('path:not(.flush)')) {
  const [letter, flying = ''] = path.getAttribute('class').split(' ')
  const mine = rows.filter(({ classList: c }) => c.contains(letter) && c.contains('i') === (flying === 'i'))
  const parts = path.getAttribute('d').split('z')
  mine.forEach((row, at) => boxes.set(row, parts[at].match(/-?[\\d.]+/g).slice(0, 4).map(Number)))
}
const number = text => Number(text.replace(/,/g, ''))
const UNITS = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 }
const ranges = new Map()
for (const row of boxes.keys()) {
  const [length, unit] = row.cells[4].textContent.split(' ')
  const from = number(row.cells[3].textContent)
  ranges.set(row, [from, from + number(length) * UNITS[unit]])
}

const show = row => {
  const [x, y, width, height] = boxes.get(row) ?? [0, 0, 0, 0]
  for (const [name, value] of Object.entries({ x, y: y - 2, width, height: height && height + 4 })) here.setAttribute(name, value)
  if (!row) return void (detail.textContent = nothing)
  const [which, fate, what, at, length, moments] = [...row.cells].map(cell => cell.textContent)
  detail.textContent = boxes.has(row)
    ? 'write ' + which + ': ' + fate + ' \\u00b7 ' + what + ' of ' + length + ' at byte ' + at + ' \\u00b7 moments ' + moments
    : [...row.cells].map(cell => cell.textContent).filter(Boolean).join(' \\u00b7 ')
}

// The filter.
const KINDS = { l: ['l', 'p'], e: ['f', 'm', 'c'] }
const visible = () => rows.filter(row => !row.hidden)
const filter = () => {
  const { fate, at } = form.elements
  const kinds = KINDS[fate.value] ?? [fate.value]
  const [, first, last = first] = /^(\\d+)(?:[-\\u2013](\\d+))?$/.exec(at.value.replace(/[,\\s]/g, '')) ?? []
  at.setAttribute('aria-invalid', String(at.value.trim() !== '' && first === undefined))
  for (const row of rows) {
    const [from, end] = ranges.get(row) ?? []
    const isKind = fate.value === 'all' || kinds.some(kind => row.classList.contains(kind))
    row.hidden = !isKind || (first !== undefined && !(from <= Number(last) && Number(first) < end))
  }
  get('shown').textContent = visible().length === rows.length ? 'All rows are shown.' : visible().length + ' of ' + rows.length + ' rows are shown.'
  enter(visible()[0])
}
form.addEventListener('input', filter)
form.addEventListener('submit', event => event.preventDefault())
form.addEventListener('reset', () => setTimeout(filter))

// One row can be reached by Tab, the others from there with the arrows.
let entrance
const enter = row => {
  entrance?.setAttribute('tabindex', -1)
  entrance = row
  entrance?.setAttribute('tabindex', 0)
}
const go = row => {
  if (!row) return
  row.setAttribute('tabindex', -1)
  enter(row)
  row.focus({ preventScroll: true })
  row.scrollIntoView({ block: 'nearest' })
}
const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }
get('all').addEventListener('keydown', event => {
  const step = STEPS[event.key]
  const row = event.target.closest('tbody tr')
  if (step === undefined || !row) return
  event.preventDefault()
  const all = visible()
  go(all[Math.min(Math.max(all.indexOf(row) + step, 0), all.length - 1)])
})
get('all').addEventListener('focusin', event => show(event.target.closest('tbody tr')))
get('all').addEventListener('click', event => go(event.target.closest('tbody tr')))

// The timeline.
const nearest = event => {
  const { left, top, width } = tl.getBoundingClientRect()
  const scale = width / 1000
  const [px, py] = [event.clientX - left, event.clientY - top]
  let [found, best] = [undefined, 14]
  for (const [row, [x, y, w, h]] of boxes) {
    const dx = Math.max(x * scale - px, 0, px - (x + w) * scale)
    const dy = Math.max(y - py, 0, py - (y + h))
    // Of several in the same place what is lost is on top: it comes last.
    if (Math.hypot(dx, dy) <= best) [found, best] = [row, Math.hypot(dx, dy)]
  }
  return found
}
const time = tl.parentNode
time.addEventListener('pointermove', event => show(nearest(event)))
time.addEventListener('pointerleave', () => show(document.activeElement?.closest('tbody tr')))
time.addEventListener('click', event => {
  const row = nearest(event)
  if (row?.hidden) form.reset()
  setTimeout(() => go(row))
})

// The map.
const cellOf = event => {
  const { left, top, width } = heat.getBoundingClientRect()
  const scale = heat.viewBox.baseVal.width / width
  const [column, row] = [left, top].map((edge, at) => Math.floor((([event.clientX, event.clientY][at] - edge) * scale - 1) / 10))
  const { start, cell, cells } = heat.dataset
  const at = row * Math.min(64, cells) + column
  if (column < 0 || column > 63 || row < 0 || at >= cells) return undefined
  const from = Number(start) + at * cell
  return [from, from + Number(cell) - 1]
}
heat?.addEventListener('click', event => {
  const range = cellOf(event)
  if (!range) return
  form.elements.at.value = range.join('\\u2013')
  filter()
  get('shown').scrollIntoView({ block: 'nearest' })
})
const title = get('cell'), plain = title?.textContent
heat?.addEventListener('pointermove', event => {
  const range = cellOf(event)
  const count = range && [...ranges.values()].filter(([from, end]) => from <= range[1] && range[0] < end).length
  title.textContent = range ? 'bytes ' + range.map(each => each.toLocaleString('en')).join(' to ') + ': ' + count + ' of the listed writes' : plain
})
heat?.addEventListener('pointerleave', () => void (title.textContent = plain))
filter()
// What matters, or else what is lost, is in sight at once.
const first = rows.find(row => row.matches('.s')) ?? rows.find(row => row.matches('.l, .p')) ?? rows.at(-1)
const scroll = get('all').parentNode
scroll.scrollTop = first.offsetTop - scroll.clientHeight / 2
`
