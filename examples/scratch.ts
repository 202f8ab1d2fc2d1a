/**
 * A fast scratch file system for one job: in memory, mounted while a command runs, removed when the job ends.
 *
 *     node scratch.js 256M /mnt/scratch make -C /mnt/scratch
 */
import { spawnSync } from 'node:child_process'
import { memory, UblkDevice } from 'ublk-ts'

const [size = '64M', target = '/mnt', command = 'df', ...args] = process.argv.slice(2)
await using disk = await UblkDevice.create({ backend: memory(size) })

/** The disk is served by native threads, so this one may wait for its users. */
function run(program: string, ...words: string[]): void {
  const { status, error } = spawnSync(program, words, { stdio: 'inherit' })
  if (error || status !== 0) throw error ?? new Error(`${program} failed`)
}

run('mkfs.ext4', '-q', disk.path)
run('mount', disk.path, target)
try {
  run(command, ...args)
} finally {
  run('umount', target)
}
