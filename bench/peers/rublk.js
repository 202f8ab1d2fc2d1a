// rublk, a server in Rust on libublk.

import { clustersOnClusters, imageOn } from '../files.js'
import { serve } from '../server.js'

const OPTIONS = { zero: '--zero-copy', async: '--async-await' }

/** By the kind of its disk: the target that rublk calls it, and the file that it is over. */
const FILES = {
  loop: ['loop', (where, fileOn) => fileOn(where)],
  qcow2: ['qcow2', imageOn],
  // An image over another one.
  fresh: ['qcow2', clustersOnClusters],
  present: ['qcow2', clustersOnClusters],
}

/** `rublk-null`, and a kind of `FILES` with a place behind it; requests up to the size that kublk's are. */
export async function startRublk([, kind, ...words], { program, shape, fileOn, env }) {
  const [target, over] = FILES[kind] ?? [kind]
  const file = over ? ['--file', await over(words.shift(), fileOn)] : []
  const options = words.map(word => OPTIONS[word])
  const form = ['-q', `${shape.queues}`, '-d', `${shape.depth}`, '-b', '1MiB']
  const disk = await serve([program, 'add', target, ...form, '--foreground', ...options, ...file], {
    ready: /dev id (\d+):/,
    env,
  })
  // It takes the end of a tracing for an error, and goes.
  return { ...disk, onceTraced: true }
}
