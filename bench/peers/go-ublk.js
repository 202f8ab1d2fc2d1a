// go-ublk: a disk in memory, in Go.

import { serve } from '../server.js'

export async function startGo(_, { program, shape, env }) {
  const form = [`--queues=${shape.queues}`, `--depth=${shape.depth}`]
  return await serve([program, `--size=${shape.bytes}`, ...form], { ready: /^Device created: (\S+)$/, env })
}
