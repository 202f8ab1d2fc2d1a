import { UblkError } from '../errors.js'

/**
 * Refuses disks that this thread's event loop, or a Worker's, would serve, in runtimes that lack what that needs: queues are
 * watched by Node's libuv. Bun ends the process when it is called.
 *
 * @throws UblkError of kind `unsupported`.
 */
export function needsNode(): void {
  const { bun, deno } = process.versions as { bun?: string; deno?: string }
  if (bun === undefined && deno === undefined) return
  const name = bun === undefined ? `Deno ${deno}` : `Bun ${bun}`
  throw new UblkError(
    'unsupported',
    `${name} cannot serve disks that are written in JavaScript, and Node can`,
    {
      hint: 'run this program with Node, or serve a native disk',
    },
  )
}
