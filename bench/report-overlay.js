// The tables of overlays: first writes, and clones.

import { median, quantile, ratios } from './statistics.js'
import { SUITES } from './suites.js'
import { range, table, unique } from './table.js'

/** First writes of each disk, and their ratio to those of a file that is a hole. */
export function first(records, absent, suite) {
  const { base } = SUITES[suite].first
  const of = (target, key) => records.filter(record => record.target === target).map(record => record[key])
  const roundsOf = target => new Map(records.filter(r => r.target === target).map(r => [r.round, r.iops]))
  const bases = roundsOf(base)
  const rows = unique(records, 'target').map(target => {
    const pairs = [...roundsOf(target)].filter(([round]) => bases.has(round))
    const ratio = ratios(
      pairs.map(([, iops]) => iops),
      pairs.map(([round]) => bases.get(round)),
    )
    return [
      target,
      (median(of(target, 'iops')) / 1000).toFixed(1),
      ratio.median.toFixed(2),
      range(ratio.quartiles),
      median(of(target, 'amplification')).toFixed(2),
      median(of(target, 'flush_ms')).toFixed(0),
    ]
  })
  const missing = absent
    .filter(({ part }) => part === 'first')
    .map(({ target, why }) => [target, `does not run here: ${why}`])
  return table(
    `First writes, 4 KiB at random, iodepth 64, each block once: ratios of IOPS to ${base}, and bytes that storage got for each byte until a flush had ended`,
    ['disk', 'kIOPS', 'ratio', 'quartiles', 'bytes', 'flush ms'],
    [...rows, ...missing],
  )
}

/** Disks of 10 GiB on shared threads: one at a time, and many at once. */
export function clones({ name, devices, one_ms, cpu_ms, all_ms, kib }) {
  const at = part => quantile(one_ms, part).toFixed(1)
  return (
    `${name}: create() one at a time ${at(0.5)} ms, p95 ${at(0.95)}, p99 ${at(0.99)}, at most ${at(1)}, processor time ${mean(cpu_ms)}; ` +
    `${devices} at once ${(all_ms / 1000).toFixed(2)} s, ${kib.toFixed(0)} KiB resident each`
  )
}

/** A disk of 1 TiB with 1 GiB written to it at random. */
export function large({ kib, large, new: fresh }) {
  const each = ({ ms, cpu_ms }) => `${median(ms).toFixed(1)} ms, processor time ${mean(cpu_ms)}`
  return (
    `An overlay of 1 TiB, 1 GiB written at random in 4 KiB: ${(kib / 1024).toFixed(1)} MiB resident more than before; ` +
    `create() again ${each(large)}; of a new one ${each(fresh)}`
  )
}

function mean(values) {
  return (values.reduce((sum, value) => sum + value, 0) / values.length).toFixed(1)
}
