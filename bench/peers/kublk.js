// kublk, the server of the kernel's own ublk self-tests.

import { CHUNK, halvesOn } from '../files.js'
import { serve } from '../server.js'

/** What the words behind its name ask for. */
const OPTIONS = { batch: '--batch', zero: '--zero_copy', auto: '--auto_zc', user: '--user_copy' }

/** By the kind of its disk: the files that it is over, and the options that only it has. */
const KINDS = {
  null: async () => [],
  loop: async (where, fileOn) => [await fileOn(where)],
  stripe: async (where, fileOn) => ['--chunk_size', `${CHUNK}`, ...(await halvesOn(where, fileOn))],
}

/**
 * `kublk` and `kublk-null` are its disk that keeps nothing, with its own default transport; `kublk-loop-…` has a file, and
 * `kublk-stripe-…` two, each half as large.
 */
export async function startKublk([, kind = 'null', ...words], { program, shape, fileOn, env }) {
  const own = await KINDS[kind](kind === 'null' ? undefined : words.shift(), fileOn)
  const options = words.map(word => OPTIONS[word])
  const form = ['-t', kind, '-q', `${shape.queues}`, '-d', `${shape.depth}`]
  return await serve([program, 'add', ...form, '--foreground', ...options, ...own], {
    ready: /dev id (\d+):/,
    env,
    remove: id => [program, 'del', '-n', id],
  })
}
