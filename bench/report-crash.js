// The tables of states after a power cut.

import { median, quantile } from './statistics.js'
import { table } from './table.js'

/** How long it takes to make disks of states, and how many states there are a second. */
export function states({
  first_ms,
  disk_ms,
  mount_ms,
  delete_ms,
  cpu_ms,
  checked,
  damaged,
  found,
  made,
  made_at_once,
  at_once,
}) {
  const spread = values => [0.25, 0.5, 0.75, 0.95].map(part => quantile(values, part).toFixed(1))
  const rate = ({ number, ms }) => `${((number / ms) * 1000).toFixed(1)}/s of ${number}`
  const rows = [
    ['state.disk()', ...spread(disk_ms)],
    ['mount', ...spread(mount_ms)],
    ['delete()', ...spread(delete_ms)],
  ]
  return [
    table(`States as disks, ms of ${disk_ms.length}`, ['step', '25 %', 'median', '75 %', '95 %'], rows),
    `state.disk(): the first one ${first_ms.toFixed(1)} ms; ${median(cpu_ms).toFixed(1)} ms of processor time`,
    `States with e2fsck -fn, one after the other: ${rate(checked)} (${damaged} damaged before their journal is replayed)`,
    `Only found: ${rate(found)}; as disks that are deleted again: ${rate(made)}, ${at_once} at once ${rate(made_at_once)}`,
  ].join('\n')
}

/** The memory that a log takes up. */
export function logSize({ written, small, large }) {
  const ratio = bytes => (bytes / written).toFixed(3)
  return (
    `Memory for a log of ${written / 2 ** 30} GiB, relative to what was written: ` +
    `${ratio(small)} in pieces of 4 KiB at random, ${ratio(large)} in pieces of 128 KiB in order`
  )
}
