// The kernel's own recorder: dm-log-writes over a disk in memory, with its log on another one.

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'

const execute = promisify(execFile)
const [DISK, LOG] = ['/dev/ram0', '/dev/ram1']
let made = 0

/** `dm-log-writes`: as large as the kernel's disks in memory are. Once its log is full, it records nothing more. */
export async function startLogWrites() {
  const name = `log-writes-${++made}`
  const sectors = readFileSync('/sys/block/ram0/size', 'utf8').trim()
  const line = `0 ${sectors} log-writes ${DISK} ${LOG}`
  await execute('dmsetup', ['create', name, '--noudevsync', '--table', line])
  const { stdout } = await execute('dmsetup', ['info', '-c', '--noheadings', '-o', 'blkdevname', name])
  return {
    path: `/dev/${stdout.trim()}`,
    stop: () => execute('dmsetup', ['remove', '--noudevsync', name]),
  }
}
