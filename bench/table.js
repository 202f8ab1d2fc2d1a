// Records, picked and laid out.

import { median, ratios } from './statistics.js'

/** A figure in every workload: of the disks that are only compared with, and of each pair with its ratio. */
export function compare(records, pairs, key) {
  return unique(records, 'workload').flatMap(workload => {
    const disks = disksIn(records, workload)
    const valuesOf = disk => select(records, workload, disk, key)
    const measured = pairs.filter(pair => pair.every(disk => disks.includes(disk)))
    const alone = disks.filter(disk => !measured.some(([target]) => target === disk))
    return [
      ...alone.map(target => ({ workload, target, base: '', value: median(valuesOf(target)) })),
      ...measured.map(([target, base]) => ({
        workload,
        target,
        base,
        value: median(valuesOf(target)),
        ratio: ratioOf(records, workload, target, base, key),
      })),
    ]
  })
}

/** The ratio of two disks, of the rounds that both have. */
function ratioOf(records, workload, target, base, key) {
  const of = disk => records.filter(record => record.workload === workload && record.target === disk)
  const bases = new Map(of(base).map(record => [record.round, record[key]]))
  const both = of(target).filter(({ round }) => bases.has(round))
  if (both.length === 0) return undefined
  return ratios(
    both.map(record => record[key]),
    both.map(({ round }) => bases.get(round)),
  )
}

export function select(records, workload, target, key) {
  return records
    .filter(record => record.workload === workload && record.target === target)
    .map(record => record[key])
}

/** The disks that were measured in a workload. */
export function disksIn(records, workload) {
  return unique(
    records.filter(record => record.workload === workload),
    'target',
  )
}

/** What occurs, in the order of its measuring. */
export function unique(records, key) {
  return [...new Set(records.map(record => record[key]))]
}

/** Two values, as a range. */
export function range([low, high]) {
  return `${low.toFixed(2)}–${high.toFixed(2)}`
}

/** The columns of a ratio: its median, its quartiles, and from where to where it goes. */
export function spread(ratio) {
  return ratio ? [ratio.median.toFixed(2), range(ratio.quartiles), range(ratio.range)] : ['', '', '']
}

/** A row that is shorter than the head is a remark: a first cell, and text across all others. */
export function table(title, head, rows) {
  const full = rows.filter(row => row.length === head.length)
  const widths = head.map((name, column) =>
    Math.max(name.length, ...(column === 0 ? rows : full).map(row => row[column].length)),
  )
  const isNumber = head.map((_, column) => full.every(row => /^[\d.]*$/.test(row[column])))
  const line = row =>
    row
      .map((cell, column) => (isNumber[column] ? cell.padStart(widths[column]) : cell.padEnd(widths[column])))
      .join('  ')
      .trimEnd()
  return [title, line(head), ...rows.map(line)].join('\n')
}
