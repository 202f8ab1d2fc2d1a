import { fileURLToPath } from 'node:url'

/** What Node runs as a server in a process of its own: `ublk-ts serve`. */
export const SERVER_PROGRAM: readonly string[] = [
  fileURLToPath(new URL('../bin/ublk-ts.cjs', import.meta.url)),
  'serve',
]
