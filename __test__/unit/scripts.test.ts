import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import test from 'ava'

const root = fileURLToPath(new URL('../../', import.meta.url))
const dir = mkdtempSync(`${tmpdir()}/ublk-ts-scripts-`)
test.after.always(() => rmSync(dir, { recursive: true, force: true }))

/** A command's output, and its standard error when it fails. */
function run(command: string, ...words: string[]): { status: number; stdout: string; stderr: string } {
  try {
    const stdout = execFileSync(command, words, { cwd: root, encoding: 'utf8', stdio: 'pipe' })
    return { status: 0, stdout, stderr: '' }
  } catch (error) {
    return error as { status: number; stdout: string; stderr: string }
  }
}

test('a native part that needs no glibc passes as one for musl, and one that does tells its version', t => {
  const none = `${dir}/none.so`
  execFileSync('cc', ['-shared', '-nostdlib', '-o', none, '-x', 'c', '/dev/null'])
  t.deepEqual(run('scripts/release/glibc', none), { status: 0, stdout: '', stderr: '' })

  const [built] = readdirSync(`${root}binding`).filter(name => /-(gnu|musl)\.node$/.test(name))
  const { stdout } = run('scripts/release/glibc', `binding/${built}`)
  if (built?.endsWith('-gnu.node')) t.regex(stdout, /^2\.\d+(\.\d+)?\n$/)
  else t.is(stdout, '')

  writeFileSync(`${dir}/text`, 'no library')
  t.not(run('scripts/release/glibc', `${dir}/text`).status, 0)
})

test('a script that fails says where', t => {
  const script = `${dir}/script`
  const lines = ['set -euo pipefail', `. ${root}vm/lib.sh`, 'found=$(echo one | grep two) || true']
  const none = [...lines, 'read -r found < <(echo one | grep two) || true', '! false', 'echo well']
  writeFileSync(script, none.join('\n'))
  t.deepEqual(run('bash', script), { status: 0, stdout: 'well\n', stderr: '' })
  writeFileSync(
    script,
    [...lines, 'last() { found=$(echo one | grep two); }', 'last', 'echo well'].join('\n'),
  )
  const { status, stdout, stderr } = run('bash', script)
  t.deepEqual([status, stdout], [1, ''])
  t.regex(stderr, /script: ends at line 4 of script, where this ended with status 1: found=.*\n$/)
})
