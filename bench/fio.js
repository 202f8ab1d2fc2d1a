// fio: the load.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const execute = promisify(execFile)

/** The part of each disk that is used, in MiB: the size of ours. */
export const SPAN = 512

/** The parts of a name such as `randread-4k-64` or `randread-4k-1-pinned`; undefined if it is none. */
export function parseWorkload(name) {
  const parts = name.match(/^((?:rand)?(?:read|write))-(\d+[km])-([1-9]\d*)(-pinned)?$/)
  if (!parts) return undefined
  const [, pattern, block, depth, pinned] = parts
  return { pattern, block, depth: Number(depth), pinned: pinned !== undefined }
}

/** Runs a workload on a disk until fio's own limits in `extra` end it. */
export async function runFio(path, workload, extra) {
  const { pattern, block, depth } = parseWorkload(workload)
  const batch =
    depth < 16
      ? []
      : ['--iodepth_batch_submit=16', '--iodepth_batch_complete_min=1', '--iodepth_batch_complete_max=16']
  const { stdout } = await execute('fio', [
    `--name=${workload}`,
    `--filename=${path}`,
    `--size=${SPAN}m`,
    '--ioengine=io_uring',
    '--direct=1',
    `--rw=${pattern}`,
    `--bs=${block}`,
    `--iodepth=${depth}`,
    ...batch,
    '--norandommap',
    '--lat_percentiles=1',
    '--clat_percentiles=0',
    '--output-format=json',
    ...extra,
  ])
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('\n{') + 1)).jobs
  const side = pattern.endsWith('read') ? job.read : job.write
  return {
    requests: side.total_ios,
    iops: side.iops,
    mib_s: side.bw_bytes / 2 ** 20,
    mean_us: side.lat_ns.mean / 1000,
    p50_us: side.lat_ns.percentile['50.000000'] / 1000,
    p99_us: side.lat_ns.percentile['99.000000'] / 1000,
  }
}
