// Turns the records of a run into tables.

import { parseWorkload } from './fio.js'
import { median, ratios } from './statistics.js'
import { BASE } from './targets.js'

/** The whole report, as text. */
export function report(records, { started, ended }) {
  const of = kind => records.filter(record => record.kind === kind)
  const [machine] = of('machine')
  const parts = [
    `${started.date}; Linux ${machine.kernel}, ${machine.cpus} CPUs, Node ${machine.node}; ` +
      `load of the machine ${started.load.toFixed(1)} before, ${ended.load.toFixed(1)} after`,
  ]
  if (of('io').length > 0) parts.push(throughput(of('io')), latency(of('io')), sleeps(of('io')))
  if (of('calls').length > 0) parts.push(calls(of('calls')))
  for (const record of of('create')) parts.push(creation(record))
  for (const record of of('memory')) parts.push(memory(record))
  return `${parts.join('\n\n')}\n`
}

function throughput(records) {
  const rows = compare(records, 'iops').map(({ workload, target, value, ratio }) => [
    workload,
    target,
    (value / 1000).toFixed(1),
    median(select(records, workload, target, 'mib_s')).toFixed(0),
    ...spread(ratio),
  ])
  return table(
    `Throughput: medians; ratios to ${BASE}'s null disk, more is better`,
    ['workload', 'disk', 'kIOPS', 'MiB/s', 'ratio', 'quartiles', 'range'],
    rows,
  )
}

function latency(records) {
  const alone = records.filter(({ workload }) => parseWorkload(workload).depth === 1)
  const row = name => figure => [
    figure.workload,
    figure.target,
    name,
    figure.value.toFixed(1),
    ...spread(figure.ratio),
  ]
  const rows = [...compare(alone, 'mean_us').map(row('mean')), ...compare(alone, 'p99_us').map(row('p99'))]
  return table(
    'Latency at iodepth 1: less is better',
    ['workload', 'disk', 'of', 'µs', 'ratio', 'quartiles', 'range'],
    rows,
  )
}

function sleeps(records) {
  const rows = compare(records, 'sleeps').map(({ workload, target, value }) => [
    workload,
    target,
    (value * 1000).toFixed(1),
  ])
  return table('How often the server slept, per 1000 requests', ['workload', 'disk', 'sleeps'], rows)
}

function calls(records) {
  const per1000 = (count, requests) => ((count * 1000) / requests).toFixed(1)
  const rows = unique(records, 'workload').flatMap(workload =>
    unique(records, 'target').map(target => {
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

/** A figure of every workload and disk: its median, and its ratio to the base. */
function compare(records, key) {
  return unique(records, 'workload').flatMap(workload =>
    unique(records, 'target').map(target => {
      const values = select(records, workload, target, key)
      const base = select(records, workload, BASE, key)
      return {
        workload,
        target,
        value: median(values),
        ratio: target === BASE ? undefined : ratios(values, base),
      }
    }),
  )
}

function select(records, workload, target, key) {
  return records
    .filter(record => record.workload === workload && record.target === target)
    .map(record => record[key])
}

/** The workloads or disks that occur, in the order of their measuring; the base first. */
function unique(records, key) {
  const names = [...new Set(records.map(record => record[key]))]
  return names.sort((a, b) => Number(b === BASE) - Number(a === BASE))
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
