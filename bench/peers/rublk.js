// rublk, a server in Rust on libublk.

import { serve } from '../server.js'

const OPTIONS = { zero: '--zero-copy', async: '--async-await' }

/** `rublk-null`, and `rublk-loop-…` with a file; requests up to the size that kublk's are. */
export async function startRublk([, kind, ...words], { program, shape, fileOn, env }) {
  const file = kind === 'loop' ? ['--file', await fileOn(words.shift())] : []
  const options = words.map(word => OPTIONS[word])
  const form = ['-q', `${shape.queues}`, '-d', `${shape.depth}`, '-b', '1MiB']
  const disk = await serve([program, 'add', kind, ...form, '--foreground', ...options, ...file], {
    ready: /dev id (\d+):/,
    env,
  })
  // It takes the end of a tracing for an error, and goes.
  return { ...disk, onceTraced: true }
}
