// rublk, a server in Rust on libublk.

import { imageOn } from '../files.js'
import { serve } from '../server.js'

const OPTIONS = { zero: '--zero-copy', async: '--async-await' }

/** By the kind of its disk: the file that it is over. */
const FILES = {
  loop: (where, fileOn) => fileOn(where),
  qcow2: imageOn,
}

/** `rublk-null`, `rublk-loop-…` with a file and `rublk-qcow2-…` with an image; requests up to the size that kublk's are. */
export async function startRublk([, kind, ...words], { program, shape, fileOn, env }) {
  const file = FILES[kind] ? ['--file', await FILES[kind](words.shift(), fileOn)] : []
  const options = words.map(word => OPTIONS[word])
  const form = ['-q', `${shape.queues}`, '-d', `${shape.depth}`, '-b', '1MiB']
  const disk = await serve([program, 'add', kind, ...form, '--foreground', ...options, ...file], {
    ready: /dev id (\d+):/,
    env,
  })
  // It takes the end of a tracing for an error, and goes.
  return { ...disk, onceTraced: true }
}
