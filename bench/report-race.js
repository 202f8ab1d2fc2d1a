// The tables of the race and of other suites with heats: one for each heat.

import { parseWorkload } from './fio.js'
import { median, quantile } from './statistics.js'
import { compare, range, select, table } from './table.js'

const HEAD = [
  'disk',
  'kIOPS',
  'quartiles',
  'MiB/s',
  'ratio',
  'to',
  'quartiles',
  'mean µs',
  'p99 µs',
  'completion p99',
  'CPU µs',
  'sleeps',
]

const INTRODUCTION = `How to read the tables: medians of the rounds; \`ratio\` is that of IOPS to the disk that \`to\`
names, the median over pairs of neighbouring runs; mean and p99 are of the whole latency of a request, and p99 of what
of that comes after its submission; \`CPU\` is the processor time of the server for a request, \`sleeps\` how often it
slept per 1000. Where the kernel's own threads serve, neither is known, and of NBD's they are only the server's part.`

/** The tables of all heats. */
export function race(records, heats) {
  const of = kind => records.filter(record => record.kind === kind)
  if (of('io').length === 0) return []
  return [INTRODUCTION, ...heats.map(heat => heatTable(heat, of('io'), of('absent')))]
}

function heatTable(heat, io, absent) {
  const mine = records => records.filter(record => record.heat === heat.name)
  const rows = rowsOf(heat, mine(io))
  const remarks = (workload, where) =>
    mine(absent)
      .filter(record => record.workload === workload && (record.part ?? 'io') === 'io')
      .map(({ target, why }) => [target, `does not run${where}: ${why}`])
  const blocks = heat.workloads.flatMap(workload => [
    [`${workload}:`, ''],
    ...rows.filter(row => row.workload === workload).map(row => row.cells),
    ...remarks(workload, ' here'),
  ])
  return table(`Heat ${heat.name}`, HEAD, [...blocks, ...remarks(undefined, '')])
}

function rowsOf(heat, records) {
  return compare(records, heat.pairs, 'iops').map(({ workload, target, base, value, ratio }) => {
    const figures = key => select(records, workload, target, key)
    const middle = (key, digits) => {
      const values = figures(key)
      return values.includes(undefined) ? '' : median(values).toFixed(digits)
    }
    const thousands = part => quantile(figures('iops'), part) / 1000
    const large = parseWorkload(workload).block.endsWith('m')
    const cells = [
      target,
      (value / 1000).toFixed(large ? 2 : 1),
      range([thousands(0.25), thousands(0.75)]),
      middle('mib_s', 0),
      ratio ? ratio.median.toFixed(2) : '',
      base,
      ratio ? range(ratio.quartiles) : '',
      middle('mean_us', 1),
      middle('p99_us', 1),
      middle('completion_p99_us', 1),
      middle('cpu_us', 1),
      sleeps(figures('sleeps'), figures('cpu_us')),
    ]
    return { workload, cells }
  })
}

/** Of a disk without a server nothing is known. */
function sleeps(values, cpu) {
  return cpu.includes(undefined) ? '' : (median(values) * 1000).toFixed(1)
}
