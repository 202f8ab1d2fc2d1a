import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'

test('the numbers that TypeScript and Rust exchange are the same', t => {
  t.notThrows(() =>
    execFileSync(fileURLToPath(new URL('../../scripts/wire.mjs', import.meta.url)), ['--check']),
  )
})
