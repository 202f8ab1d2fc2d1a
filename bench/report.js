// Turns the records of a run into tables.

import { parseWorkload } from './fio.js'
import { logSize, states } from './report-crash.js'
import { growth } from './report-growth.js'
import { clones, first, large } from './report-overlay.js'
import { race } from './report-race.js'
import { store } from './report-store.js'
import { median, quantile } from './statistics.js'
import { heatsOf } from './suites.js'
import { compare, disksIn, select, spread, table, unique } from './table.js'

/** The suites whose heats have a table each. */
const TABLES_OF_HEATS = ['race', 'stacks', 'crash', 'images', 'overlay', 'builds']

/** The whole report, as text. */
export function report(records, { options, about }) {
  const { suite } = options
  const heats = heatsOf(options)
  const of = kind => records.filter(record => record.kind === kind)
  const parts = [heading(of('machine')[0], about)]
  if (TABLES_OF_HEATS.includes(suite)) parts.push(...race(records, heats))
  else if (suite === 'growth') parts.push(...growth(records))
  else if (of('io').length > 0) {
    const pairs = heats.flatMap(heat => heat.pairs)
    parts.push(throughput(of('io'), pairs), latency(of('io'), pairs), sleeps(of('io')))
  }
  if (of('calls').length > 0) parts.push(calls(of('calls'), of('absent')))
  if (of('allocations').length > 0) parts.push(allocations(of('allocations'), of('absent')))
  if (of('attach').length > 0) parts.push(attach(of('attach')))
  for (const record of of('create')) parts.push(creation(record))
  for (const record of of('memory')) parts.push(memory(record))
  if (of('first').length > 0) parts.push(first(of('first'), of('absent'), suite))
  for (const record of of('clones')) parts.push(clones(record))
  for (const record of of('states')) parts.push(states(record))
  for (const record of of('log')) parts.push(logSize(record))
  for (const record of of('large')) parts.push(large(record))
  if (of('many').length > 0) parts.push(many(of('many')))
  if (of('store').length > 0) parts.push(...store(of('store')))
  return `${parts.join('\n\n')}\n`
}

/** What was measured where, and how to do it again. */
export function heading(machine, { command, versions, host, date, load }) {
  return [
    `${date}; Linux ${machine.kernel}, ${machine.cpus} CPUs, Node ${machine.node}; ` +
      `load of the machine ${load.before.toFixed(1)} before, ${load.after.toFixed(1)} after`,
    `on ${host.cpu}, ${host.cpus} CPUs, Linux ${host.kernel}`,
    Object.entries(versions)
      .map(pair => pair.join(' '))
      .join(', '),
    command,
  ].join('\n')
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

function calls(records, absent) {
  const per1000 = (count, requests) => ((count * 1000) / requests).toFixed(1)
  const missing = absent
    .filter(({ part }) => part === 'calls')
    .map(({ workload, target, why }) => [workload, `${target} was not counted: ${why}`])
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
    [...rows, ...missing],
  )
}

function allocations(records, absent) {
  const names = unique(records, 'workload')
  const rows = unique(records, 'target').map(target => [
    target,
    ...names.map(workload => {
      const { allocations, requests } = records.find(
        record => record.target === target && record.workload === workload,
      )
      return ((allocations * 1000) / requests).toFixed(1)
    }),
  ])
  const missing = absent
    .filter(({ part }) => part === 'allocations')
    .map(({ target, why }) => [target, `not counted: ${why}`])
  return table(
    'Allocations of the server per 1000 requests: calls of malloc and its kin',
    ['disk', ...names],
    [...rows, ...missing],
  )
}

function attach(records) {
  const spread = values => [0.5, 0.95, 0.99, 1].map(part => quantile(values, part).toFixed(1))
  const rows = records.map(({ disk, beside, at_once, create_ms, delete_ms }) => [
    disk,
    `${beside}`,
    `${at_once}`,
    `${create_ms.length}`,
    ...spread(create_ms),
    ...spread(delete_ms),
  ])
  const figures = ['p50', 'p95', 'p99', 'max']
  return table(
    'Making and deleting disks of one process with shared threads: ms from the call until it is done',
    [
      'disk',
      'beside',
      'at once',
      'disks',
      ...figures.map(name => `create ${name}`),
      ...figures.map(name => `delete ${name}`),
    ],
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
