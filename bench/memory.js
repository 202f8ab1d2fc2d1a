// The memory of the lab's machine.

import { execFile } from 'node:child_process'
import { freemem } from 'node:os'
import { promisify } from 'node:util'

const execute = promisify(execFile)
const DIR = '/tmp/bench-memory'
/** What the machine keeps. */
const SPARE = 512 * 2 ** 20

/**
 * Uses all of this machine's memory once, and gives it back. The host gives the lab's machine each page when that uses it for the
 * first time, which takes longer than a request: a disk that keeps all that is written would be measured by that, and no machine of
 * its own does it.
 */
export async function useAllMemory() {
  const mib = Math.floor((freemem() - SPARE) / 2 ** 20)
  const script =
    'mkdir -p "$1"; mount -t tmpfs -o "size=$2m" bench "$1"; dd if=/dev/zero "of=$1/x" bs=1M "count=$2"; umount "$1"'
  await execute('sh', ['-ec', script, 'sh', DIR, `${mib}`])
}
