// The race as a picture: a panel for each heat and workload, a bar for each disk, ours in another colour.

import { parseWorkload } from './fio.js'
import { heading } from './report.js'
import { quantile } from './statistics.js'
import { heatsOf } from './suites.js'
import { disksIn, select } from './table.js'
import { isOurs } from './targets.js'

/** What is drawn of a heat, of what was measured: alone, many at once, and large. */
const DRAWN = ['randread-4k-1', 'randread-4k-64', 'randwrite-4k-64', 'read-1m-8']
const [PANEL, GAP, LABEL, BAR, TOP] = [440, 20, 165, 18, 58]
const COLOURS = { ours: '#2f6fde', theirs: '#9aa3ad', text: '#1f2328', faint: '#656d76' }

/** Draws the records of a race as SVG. */
export function draw(records, { options, about }) {
  const io = records.filter(({ kind }) => kind === 'io')
  const machine = records.find(({ kind }) => kind === 'machine')
  const rows = heatsOf(options).map(heat => {
    const mine = io.filter(record => record.heat === heat.name)
    const absent = records.filter(
      record => record.kind === 'absent' && (record.part ?? 'io') === 'io' && record.heat === heat.name,
    )
    return {
      heat,
      panels: heat.workloads.filter(name => DRAWN.includes(name)).map(name => ({ name, mine, absent })),
    }
  })
  const parts = []
  let y = TOP
  for (const { heat, panels } of rows) {
    parts.push(text(GAP, y, `Heat ${heat.name}`, { size: 15, weight: 'bold' }))
    const drawn = panels.map((panel, at) => drawPanel(panel, heat, GAP + at * (PANEL + GAP), y + 22))
    parts.push(...drawn.map(({ svg }) => svg))
    y += 22 + Math.max(0, ...drawn.map(({ height }) => height)) + 28
  }
  const notes = heading(machine, about).split('\n')
  parts.push(...notes.map((line, at) => text(GAP, y + at * 16, line, { size: 11, fill: COLOURS.faint })))
  const width = GAP + Math.max(1, ...rows.map(({ panels }) => panels.length)) * (PANEL + GAP)
  const height = y + notes.length * 16
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(GAP, 26, 'ublk-ts and others: medians, with quartiles; longer is better', {
      size: 18,
      weight: 'bold',
    }),
    ...parts,
    '</svg>\n',
  ].join('\n')
}

function drawPanel({ name, mine, absent }, heat, x, y) {
  const large = parseWorkload(name).block.endsWith('m')
  const unit = large ? 'MiB/s' : 'kIOPS'
  const measured = disksIn(mine, name)
  const bars = heat.disks.flatMap(disk => {
    const values = select(mine, name, disk, large ? 'mib_s' : 'iops').map(value => value / (large ? 1 : 1000))
    if (measured.includes(disk))
      return [
        { disk, middle: quantile(values, 0.5), quartiles: [0.25, 0.75].map(part => quantile(values, part)) },
      ]
    const fails = absent.some(({ target, workload }) => target === disk && (workload ?? name) === name)
    return fails ? [{ disk }] : []
  })
  const room = PANEL - LABEL - 60
  const scale = room / Math.max(...bars.map(({ quartiles }) => quartiles?.[1] ?? 0), Number.MIN_VALUE)
  const lines = bars.map((bar, at) => drawBar(bar, x, y + 14 + at * BAR, scale))
  const title = text(x, y, `${name}, ${unit}`, { size: 12, weight: 'bold' })
  return { svg: [title, ...lines].join('\n'), height: 14 + bars.length * BAR }
}

function drawBar({ disk, middle, quartiles }, x, y, scale) {
  const left = x + LABEL
  const label = text(left - 6, y + 11, disk, { size: 11, anchor: 'end' })
  if (middle === undefined)
    return `${label}\n${text(left, y + 11, 'does not run', { size: 11, fill: COLOURS.faint })}`
  const [low, high] = quartiles.map(value => (left + value * scale).toFixed(1))
  const fill = isOurs(disk) ? COLOURS.ours : COLOURS.theirs
  return [
    label,
    `<rect x="${left}" y="${y}" width="${(middle * scale).toFixed(1)}" height="${BAR - 5}" fill="${fill}"/>`,
    `<path d="M${low} ${y + 6.5}H${high}" stroke="${COLOURS.text}" stroke-width="1.5"/>`,
    text(Number(high) + 5, y + 11, middle.toFixed(middle < 100 ? 1 : 0), { size: 11 }),
  ].join('\n')
}

function text(x, y, words, { size, weight = 'normal', anchor = 'start', fill = COLOURS.text }) {
  const safe = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  return `<text x="${x}" y="${y}" font-size="${size}" font-weight="${weight}" text-anchor="${anchor}" fill="${fill}">${safe}</text>`
}
