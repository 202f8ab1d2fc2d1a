import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import type { ExecutionContext, TestFn } from 'ava'
import { UblkDevice } from 'ublk-ts'
import { shell } from './program.js'

/** The nodes of ublk devices in /dev. */
export function nodes(): string[] {
  return readdirSync('/dev').filter(name => /^ublk[bc]\d/.test(name))
}

/** Makes every test of a file fail that leaves a device behind, and removes what it left. */
export function leaveNothingBehind(test: TestFn): void {
  test.afterEach.always('no device is left behind', async (t: ExecutionContext) => {
    const left = await UblkDevice.list()
    const remove = async (id: number) => await (await UblkDevice.open(id)).delete({ force: true })
    await Promise.allSettled(left.map(({ id }) => remove(id)))
    t.deepEqual(
      left.map(({ path, state, pid }) => ({ path, state, pid })),
      [],
    )
    t.deepEqual(nodes(), [])
  })
}

/** What goes wrong while the disk is used. */
export function errorsOf(disk: UblkDevice): string[] {
  const errors: string[] = []
  disk.on('error', ({ message }) => errors.push(message))
  return errors
}

/** Reads from a disk, one request after the other, until disposed of. */
export function readAllTheTime(path: string): AsyncDisposable {
  const words = 'while :; do dd if="$1" of=/dev/null bs=4k count=1000 iflag=direct status=none; done'
  const reader = shell(words, path)
  const ended = once(reader, 'close')
  return {
    async [Symbol.asyncDispose]() {
      reader.kill()
      await ended
    },
  }
}
