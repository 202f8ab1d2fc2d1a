// Turns the records of a run into tables.

import { parseWorkload } from './fio.js'
import { median, ratios } from './statistics.js'
import { SUITES } from './suites.js'

/** The whole report, as text. */
export function report(records, { options, started, ended }) {
  const pairs = options.targets.map(target => SUITES[options.suite].targets[target])
  const of = kind => records.filter(record => record.kind === kind)
  const [machine] = of('machine')
  const parts = [
    `${started.date}; Linux ${machine.kernel}, ${machine.cpus} CPUs, Node ${machine.node}; ` +
      `load of the machine ${started.load.toFixed(1)} before, ${ended.load.toFixed(1)} after`,
  ]
  if (of('io').length > 0) parts.push(throughput(of('io'), pairs), latency(of('io'), pairs), sleeps(of('io')))
  if (of('calls').length > 0) parts.push(calls(of('calls')))
  for (const record of of('create')) parts.push(creation(record))
  for (const record of of('memory')) parts.push(memory(record))
  if (of('many').length > 0) parts.push(many(of('many')))
  return `${parts.join('\n\n')}\n`
}

function throughput(records, pairs) {
  const rows = compare(records, pairs, 'iops').map(({ workload, target, base, value, ratio }) => [
    workload,
    target,
    (value / 1000).toFixed(1),
    median(select(records, workload, target, 'mib_s')).toFixed(0),
    base,
    ...spread(ratio),
  ])
  return table(
    'Throughput: medians, and ratios of IOPS; more is better',
    ['workload', 'disk', 'kIOPS', 'MiB/s', 'to', 'ratio', 'quartiles', 'range'],
    rows,
  )
}

function latency(records, pairs) {
  const alone = records.filter(({ workload }) => parseWorkload(workload).depth === 1)
  const rows = ['mean', 'p99'].flatMap(of =>
    compare(alone, pairs, `${of}_us`).map(({ workload, target, base, value, ratio }) => [
      workload,
      target,
      of,
      value.toFixed(1),
      base,
      ...spread(ratio),
    ]),
  )
  return table(
    'Latency at iodepth 1: less is better',
    ['workload', 'disk', 'of', 'µs', 'to', 'ratio', 'quartiles', 'range'],
    rows,
  )
}

function sleeps(records) {
  const rows = unique(records, 'workload').flatMap(workload =>
    disksIn(records, workload).map(target => [
      workload,
      target,
      (median(select(records, workload, target, 'sleeps')) * 1000).toFixed(1),
    ]),
  )
  return table('How often the server slept, per 1000 requests', ['workload', 'disk', 'sleeps'], rows)
}

function calls(records) {
  const per1000 = (count, requests) => ((count * 1000) / requests).toFixed(1)
  const rows = unique(records, 'workload').flatMap(workload =>
    disksIn(records, workload).map(target => {
      const [requests, enters, others] = ['requests', 'enters', 'others'].map(
        key => select(records, workload, target, key)[0],
      )
      return [workload, target, per1000(enters, requests), per1000(others, requests)]
    }),
  )
  return table(
    'System calls of the server per 1000 requests, under strace',
    ['workload', 'disk', 'io_uring_enter', 'others'],
    rows,
  )
}

function creation({ create_ms, commands_ms }) {
  const [create, commands] = [median(create_ms), median(commands_ms)]
  return (
    `Making a device, medians of ${create_ms.length}: create() ${create.toFixed(1)} ms, ` +
    `the control commands alone ${commands.toFixed(1)} ms, beyond them ${(create - commands).toFixed(1)} ms`
  )
}

function memory({ devices, before, after }) {
  return `Memory of an idle device, mean of ${devices}: ${((after - before) / devices / 1024).toFixed(0)} KiB resident`
}

function many(records) {
  const ms = values => median(values).toFixed(1)
  const rows = records.map(({ name, devices, one_ms, busy_ms, all_ms, delete_ms, kib, threads }) => [
    name,
    `${devices}`,
    one_ms ? ms(one_ms) : '',
    busy_ms ? ms(busy_ms) : '',
    (all_ms / devices).toFixed(1),
    (delete_ms / devices).toFixed(1),
    kib.toFixed(0),
    `${threads}`,
  ])
  return table(
    'Many idle devices: ms to make one, alone and beside all others; of making and of deleting all at once, ms each; ' +
      'KiB of memory each; threads in all',
    ['served by', 'devices', 'one', 'beside', 'at once', 'deletion', 'KiB', 'threads'],
    rows,
  )
}

/** A figure in every workload: of the disks that are only compared with, and of each pair with its ratio. */
function compare(records, pairs, key) {
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
        ratio: ratios(valuesOf(target), valuesOf(base)),
      })),
    ]
  })
}

function select(records, workload, target, key) {
  return records
    .filter(record => record.workload === workload && record.target === target)
    .map(record => record[key])
}

/** The disks that were measured in a workload. */
function disksIn(records, workload) {
  return unique(
    records.filter(record => record.workload === workload),
    'target',
  )
}

/** What occurs, in the order of its measuring. */
function unique(records, key) {
  return [...new Set(records.map(record => record[key]))]
}

function spread(ratio) {
  if (!ratio) return ['', '', '']
  const range = ([low, high]) => `${low.toFixed(2)}–${high.toFixed(2)}`
  return [ratio.median.toFixed(2), range(ratio.quartiles), range(ratio.range)]
}

function table(title, head, rows) {
  const widths = head.map((name, column) => Math.max(name.length, ...rows.map(row => row[column].length)))
  const isNumber = head.map((_, column) => rows.every(row => /^[\d.]*$/.test(row[column])))
  const line = row =>
    row
      .map((cell, column) => (isNumber[column] ? cell.padStart(widths[column]) : cell.padEnd(widths[column])))
      .join('  ')
      .trimEnd()
  return [title, line(head), ...rows.map(line)].join('\n')
}
