import { readdirSync } from 'node:fs'
import type { ExecutionContext, TestFn } from 'ava'
import { UblkDevice } from 'ublk-ts'

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
