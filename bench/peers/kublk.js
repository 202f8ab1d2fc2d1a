// kublk, the server of the kernel's own ublk self-tests.

import { serve } from '../server.js'

/** What the words behind its name ask for. */
const OPTIONS = { batch: '--batch', zero: '--zero_copy', auto: '--auto_zc', user: '--user_copy' }

/** `kublk` and `kublk-null` are its disk that keeps nothing, with its own default transport; `kublk-loop-…` has a file. */
export async function startKublk([, kind = 'null', ...words], { program, shape, fileOn, env }) {
  const file = kind === 'loop' ? [await fileOn(words.shift())] : []
  const options = words.map(word => OPTIONS[word])
  const form = ['-t', kind, '-q', `${shape.queues}`, '-d', `${shape.depth}`]
  return await serve([program, 'add', ...form, '--foreground', ...options, ...file], {
    ready: /dev id (\d+):/,
    env,
    remove: id => [program, 'del', '-n', id],
  })
}
