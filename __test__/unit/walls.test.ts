import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'

const script = fileURLToPath(new URL('../../scripts/walls.mjs', import.meta.url))

/** What the script says of a repository with these files. */
function said(files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'ublk-ts-walls-'))
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true })
      writeFileSync(join(root, path), text)
    }
    return execFileSync(script, [root], { encoding: 'utf8', stdio: 'pipe' })
  } catch (error) {
    return (error as { stderr: string }).stderr
  } finally {
    rmSync(root, { recursive: true })
  }
}

test('an import that crosses a wall is named in one line', t => {
  const imports: [path: string, text: string, what: string][] = [
    ['ts/device.ts', "import { a } from './daemon/job.js'", './daemon/job.js, but api → daemon'],
    ['ts/index.ts', "import './daemon/job.js'", './daemon/job.js, but entry → daemon'],
    ['ts/runtime/a.ts', "import type { A } from '../device.js'", '../device.js, but runtime → api'],
    ['ts/runtime/a.ts', "await import('../device.js')", '../device.js, but runtime ⇢ api'],
    ['ts/errors.ts', "import { a } from '#binding'", '#binding, but base → #binding'],
    ['ts/daemon/a.ts', "new URL('../cli/main.js', import.meta.url)", '../cli/main.js, but daemon ⇢ cli'],
    ['ts/daemon/a.ts', 'run(process.argv)', 'argv, but daemon → argv'],
    ['ts/watch/a.ts', "import { Command } from 'commander'", 'npm:commander, but watch → npm:commander'],
  ]
  for (const [path, text, what] of imports) {
    t.is(said({ [path]: text }), `walls: ${path} imports ${what} is not allowed\n`)
  }
})

test('a use of a Rust module that crosses a wall is named, but not that of a test', t => {
  const source = 'crates/ublk-core/src'
  const files = { [`${source}/control/mod.rs`]: '', [`${source}/device.rs`]: '', [`${source}/error.rs`]: '' }
  const line = `walls: ${source}/control/a.rs uses crate::device, but control → device is not allowed in ublk-core\n`
  for (const use of ['use crate::device::X;', 'use crate::{error::{a, device}, device::{self}};']) {
    t.is(said({ ...files, [`${source}/control/a.rs`]: use }), line, use)
  }
  for (const use of [
    'use crate::{error::{a, device}};',
    '#[cfg(test)]\nmod tests {\n  use crate::device::X;\n}',
  ]) {
    t.is(said({ ...files, [`${source}/control/a.rs`]: use }), '', use)
  }
})

test('every import of this repository is allowed', t => {
  const { status, stderr } = spawnSync(script, { encoding: 'utf8' })
  t.is(stderr, '', 'an import that is right needs an arrow in scripts/walls.mjs, with its reason')
  t.is(status, 0)
})

test('what is allowed is silent', t => {
  t.is(said({ 'ts/index.ts': "await import('./daemon/job.js')", 'ts/cli/a.ts': 'process.argv' }), '')
})
