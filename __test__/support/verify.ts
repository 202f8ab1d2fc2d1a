import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fioJobs } from './fio-jobs.js'
import { sh } from './program.js'

export { MEBIBYTES } from './fio-jobs.js'

/**
 * Has fio write a disk of {@link MEBIBYTES}, or of another size, in every way, or in those that are named, and read it back; fails if anything
 * differs.
 */
export async function verify(path: string, jobs: readonly string[] = [], size?: string): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'verify-'))
  try {
    writeFileSync(join(dir, 'jobs'), fioJobs(size))
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
