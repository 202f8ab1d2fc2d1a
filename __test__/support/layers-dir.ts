import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { TestFn } from 'ava'
import { sh } from './program.js'

/**
 * A directory with a base of 48 MiB in it, random from 20 to 40 MiB and made anew before each test, and a load for disks over it
 * that writes to their first half only.
 */
export class LayersDir {
  readonly path: string
  readonly base: string

  constructor(test: TestFn, name: string) {
    this.path = mkdtempSync(`/dev/shm/${name}-`)
    this.base = this.at('base')
    test.beforeEach('a base with zeroes in it', async () => {
      const made =
        'rm -f "$1"; truncate -s 48M "$1"; dd if=/dev/urandom of="$1" bs=1M count=20 seek=20 conv=notrunc status=none'
      await sh(made, this.base)
    })
    test.after.always(() => rmSync(this.path, { recursive: true }))
  }

  at(name: string): string {
    return join(this.path, name)
  }
}

/** fio writes to the first half of the disk `$1` and checks that, until there is a file `stop` in the directory `$2`. */
export const LOAD = `cd "$2"; rm -f stop; while [ ! -e stop ]; do
    fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bsrange=512-64k --size=24m \\
      --io_size=8m --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --fsync=64 --output-format=terse
  done >fio.out`

/** Around the page cache of a disk. */
const direct = (path: string): string => (path.startsWith('/dev/ublkb') ? 'iflag=direct' : '')

export async function sum(path: string): Promise<string> {
  return await sh(`dd if="$1" bs=1M ${direct(path)} status=none | sha256sum`, path)
}

/** The half that the load does not write to. */
export async function restOf(path: string): Promise<string> {
  return await sh(`dd if="$1" bs=1M skip=24 ${direct(path)} status=none | sha256sum`, path)
}
