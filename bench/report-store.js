// The tables of disks in an object store.

import { median, ratios } from './statistics.js'
import { spread, table } from './table.js'

/** What was measured of each, in the order of measuring. */
export function store(records) {
  const names = [...new Set(records.map(({ name }) => name))]
  return names.map(name => TABLES[name](records.filter(record => record.name === name)))
}

const all = (records, key) => records.map(record => record[key])
const ms = values => median(values).toFixed(1)

const TABLES = {
  flush: records => {
    const [flush, put] = ['flush_ms', 'put_ms'].map(key => all(records, key))
    return table(
      'A flush of one block, beside a PUT of as many bytes by a plain client; medians',
      ['flush ms', 'PUT ms', 'ratio', 'quartiles', 'range'],
      [[ms(flush), ms(put), ...spread(ratios(flush, put))]],
    )
  },
  cold: records => {
    const [disk, plain] = ['disk_mib_s', 'plain_mib_s'].map(key => all(records, key))
    const gets = `${median(all(records, 'gets'))} GETs for ${records[0].reads} reads of 4 KiB`
    return [
      `Not in the cache: ${gets}, ${ms(all(records, 'read_ms'))} ms each (with the start of dd)`,
      table(
        'One after the other, beside plain GETs of 1 MiB, 16 at a time',
        ['MiB/s', 'plain', 'ratio', 'quartiles', 'range'],
        [[median(disk).toFixed(0), median(plain).toFixed(0), ...spread(ratios(disk, plain))]],
      ),
    ].join('\n')
  },
  bytes: records =>
    table(
      'Bytes that went to the store for each that was written',
      ['written', 'MiB', 'ratio', 'live of stored'],
      records.map(({ what, up, written, live, stored }) => [
        what,
        (written / 2 ** 20).toFixed(0),
        (up / written).toFixed(3),
        stored ? (live / stored).toFixed(2) : '',
      ]),
    ),
  open: records => {
    const delays = Object.keys(records[0].times)
    const times = Object.fromEntries(
      delays.map(delay => [delay, median(records.map(({ times }) => times[delay]))]),
    )
    const [none, , most] = delays
    const trips = (times[most] - times[none]) / Number(most)
    const asked = Object.entries(records[0].requests).filter(([, number]) => number > 0)
    return [
      `A volume of 1 TiB whose map has about 116000 runs, opened without a cache: ${asked.map(([verb, number]) => `${number} ${verb}`).join(', ')}`,
      `  ${delays.map(delay => `${times[delay].toFixed(0)} ms at ${delay} ms`).join(', ')}: ${trips.toFixed(1)} round trips, ` +
        `and ${(times[none] - median(all(records, 'memory_ms'))).toFixed(0)} ms more than a disk in memory takes`,
    ].join('\n')
  },
  warm: records =>
    table(
      'IOPS at iodepth 64, 4 KiB, beside a file in the place of the cache',
      ['workload', 'volume', 'file', 'ratio', 'quartiles', 'range'],
      ['randread', 'randwrite'].map(pattern => {
        const own = records.filter(record => record.pattern === pattern)
        const [volume, file] = ['volume', 'file'].map(key => all(own, key))
        return [pattern, median(volume).toFixed(0), median(file).toFixed(0), ...spread(ratios(volume, file))]
      }),
    ),
  peers: records => {
    const names = [...new Set(records.map(({ disk }) => disk))]
    const rows = names.map(name => {
      const own = records.filter(({ disk, why }) => disk === name && !why)
      if (own.length === 0) return [name, records.find(({ disk }) => disk === name).why]
      const of = (key, digits = 0) => median(all(own, key)).toFixed(digits)
      return [
        name,
        of('write1'),
        of('write16'),
        of('write_and_flush_ms', 1),
        of('read1_ms', 1),
        of('gets'),
        of('read16'),
      ]
    })
    return table(
      "Beside others, at 20 ms: IOPS of 4 KiB writes at random, and of reads of what is not in a cache; others with the kernel's NBD client",
      ['disk', 'write, 1', 'write, 16', 'write and flush ms', 'read ms', 'GETs of 30', 'read, 16'],
      rows,
    )
  },
  idle: ([{ minutes, requests }]) => `Idle for ${minutes} minutes: ${requests} requests`,
}
