// The tables of growth, each with what is expected of it.

import { median } from './statistics.js'
import { range, table, unique } from './table.js'

export function growth(records) {
  const of = kind => records.filter(record => record.kind === kind)
  return [
    ...(of('cpu').length > 0 ? [cpu(of('cpu'))] : []),
    ...(of('buffers').length > 0 ? [buffers(of('buffers'))] : []),
    ...(of('queues').length > 0 ? [queues(of('queues'))] : []),
  ]
}

function cpu(records) {
  const rows = grouped(records, ['depth', 'target']).map(({ depth, target, records }) => {
    const sum = key => records.reduce((sum, record) => sum + record[key], 0)
    const kiops = median(records.map(({ iops }) => iops)) / 1000
    return [`${depth}`, target, (sum('cpu') / sum('requests')).toFixed(2), kiops.toFixed(1)]
  })
  return table(
    'Processor time of the server for a request, 4k randread, one queue.\n' +
      'Expected: it falls with iodepth, as a turn of the loop serves more requests, and then stays; it never rises.',
    ['iodepth', 'disk', 'CPU µs', 'kIOPS'],
    rows,
  )
}

function buffers(records) {
  const rows = records.map(({ depth, kib, target, idle_kib, used_kib }) => [
    `${depth}`,
    `${kib}`,
    target,
    mib(depth * kib),
    mib(idle_kib),
    mib(used_kib),
    ((used_kib - idle_kib) / (depth * kib)).toFixed(2),
  ])
  return table(
    'Memory of a server, MiB: with idle buffers, and when all have been used by requests of that size.\n' +
      'Expected: idle it is the same whatever the depth and the size; used it grows by at most depth × size.',
    ['depth', 'KiB', 'disk', 'depth × size', 'idle', 'used', 'growth / (depth × size)'],
    rows,
  )
}

function queues(records) {
  const rows = unique(records, 'target').flatMap(target => {
    const iops = (queues, round) =>
      records.find(record => record.target === target && record.queues === queues && record.round === round)
        .iops
    return grouped(
      records.filter(record => record.target === target),
      ['queues'],
    ).map(({ queues, records }) => {
      const relative = records.map(record => record.iops / iops(1, record.round))
      const kiops = median(records.map(record => record.iops)) / 1000
      const ends = range([Math.min(...relative), Math.max(...relative)])
      return [target, `${queues}`, kiops.toFixed(2), median(relative).toFixed(2), ends]
    })
  })
  return table(
    '4k randread with more queues, the load being a job a CPU with iodepth 32; an emulated machine with 4 CPUs.\n' +
      "Expected: it grows as kublk's does, as far as the CPUs go that load and servers share.",
    ['disk', 'queues', 'kIOPS', 'to one', 'range'],
    rows,
  )
}

/** Records in groups that agree in some keys. */
function grouped(records, keys) {
  const groups = new Map()
  for (const record of records) {
    const name = keys.map(key => record[key]).join(' ')
    const of = Object.fromEntries(keys.map(key => [key, record[key]]))
    if (!groups.has(name)) groups.set(name, { ...of, records: [] })
    groups.get(name).records.push(record)
  }
  return [...groups.values()]
}

function mib(kib) {
  return (kib / 1024).toFixed(1)
}
