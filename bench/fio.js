// fio: the load.

import { execFile } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Absent, within } from './server.js'

const execute = promisify(execFile)
/** What a run may take beyond its time: less than what a kernel takes for a hang. */
const SLACK = process.env.UBLK_TS_VM === 'qemu' ? 60 : 15

/** The part of each disk that is used, in MiB: the size of ours. */
export const SPAN = 512

/** The parts of a name such as `randread-4k-64` or `randread-4k-1-pinned`; undefined if it is none. */
export function parseWorkload(name) {
  const parts = name.match(/^((?:rand)?(?:read|write))-(\d+[km])-([1-9]\d*)(-pinned)?$/)
  if (!parts) return undefined
  const [, pattern, block, depth, pinned] = parts
  return { pattern, block, depth: Number(depth), pinned: pinned !== undefined }
}

/**
 * Runs a workload on a disk until fio's own limits in `extra` end it, or `seconds` and some more have passed. A disk that
 * has no answer by then has its server killed, whereupon the driver ends what waits for it. If the disk shares memory, the
 * load's buffers are there.
 */
export async function runFio(disk, workload, extra, seconds = 30) {
  const running = fio(disk, workload, extra)
  try {
    return await within((seconds + SLACK) * 1000, running)
  } catch (error) {
    disk.kill?.()
    await within(SLACK * 1000, running).catch(() => {})
    throw error instanceof Absent ? error : new Absent(reason(error))
  }
}

let keeps

/** The environment of a fio whose buffers are in a file that stays as it is. */
async function keepingFile() {
  const library = join(tmpdir(), 'keep-file.so')
  keeps ??= execute('gcc', [
    '-O2',
    '-shared',
    '-fPIC',
    '-o',
    library,
    join(import.meta.dirname, 'keep-file.c'),
  ])
  await keeps
  return { ...process.env, LD_PRELOAD: library }
}

/** What fio says of an error, in short. */
function reason(error) {
  const [, text] = `${error.stderr}${error.stdout}`.match(/error=([^\n]+)|:\s*(io_u error.+)/) ?? []
  return text ?? error.message.split('\n')[0]
}

async function fio({ path, shared }, workload, extra) {
  const { pattern, block, depth } = parseWorkload(workload)
  const batch =
    depth < 16
      ? []
      : ['--iodepth_batch_submit=16', '--iodepth_batch_complete_min=1', '--iodepth_batch_complete_max=16']
  const words = [
    `--name=${workload}`,
    `--filename=${path}`,
    '--allow_file_create=0', // of a disk that has gone there shall not be a file in /dev
    `--size=${SPAN}m`,
    '--ioengine=io_uring',
    '--direct=1',
    `--rw=${pattern}`,
    `--bs=${block}`,
    `--iodepth=${depth}`,
    ...batch,
    '--norandommap',
    '--lat_percentiles=1',
    '--clat_percentiles=1',
    '--output-format=json',
    ...extra,
  ]
  const { stdout } = shared
    ? await execute('fio', [...words, `--mem=mmapshared:${shared}`], { env: await keepingFile() })
    : await execute('fio', words)
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('\n{') + 1)).jobs
  const side = pattern.endsWith('read') ? job.read : job.write
  if (job.error !== 0 || side.total_ios === 0) throw new Absent(`its requests fail with error ${job.error}`)
  return {
    requests: side.total_ios,
    iops: side.iops,
    mib_s: side.bw_bytes / 2 ** 20,
    mean_us: side.lat_ns.mean / 1000,
    p50_us: side.lat_ns.percentile['50.000000'] / 1000,
    p99_us: side.lat_ns.percentile['99.000000'] / 1000,
    completion_mean_us: side.clat_ns.mean / 1000,
    completion_p99_us: side.clat_ns.percentile['99.000000'] / 1000,
  }
}
