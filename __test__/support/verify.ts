import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sh } from './program.js'

/** How large a disk the jobs want. */
export const MEBIBYTES = 16

/** Each job writes the whole disk in mixed sizes, reads it back and checks every block's checksum. */
const JOBS = `
[global]
size=SIZE
direct=1
ioengine=libaio
verify=crc32c
verify_fatal=1
do_verify=1
randrepeat=0
verify_state_save=0
bssplit=512/20:4k/40:5632/10:64k/15:512k/10:1m/5
stonewall
[sequential-1]
rw=write
iodepth=1
[sequential-128]
rw=write
iodepth=128
[random-1]
rw=randwrite
iodepth=1
[random-16]
rw=randwrite
iodepth=16
[random-128]
rw=randwrite
iodepth=128
`

/**
 * Has fio write a disk of {@link MEBIBYTES}, or of another size, in every way, or in those that are named, and read it back; fails if anything
 * differs.
 */
export async function verify(
  path: string,
  jobs: readonly string[] = [],
  size = `${MEBIBYTES}m`,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'verify-'))
  try {
    writeFileSync(join(dir, 'jobs'), JOBS.replace('SIZE', size))
    const only = jobs.map(job => `--section=${job}`)
    await sh(
      'cd "$1"; disk=$2; shift 2; fio --filename="$disk" --output-format=terse "$@" jobs',
      dir,
      path,
      ...only,
    )
  } finally {
    rmSync(dir, { recursive: true })
  }
}
