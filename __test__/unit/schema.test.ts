import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { run } from '../support/program.js'
import { faultsOf } from '../support/schema.js'

const root = fileURLToPath(new URL('../../', import.meta.url))

test('the schema of JSON output is that of the columns', t => {
  t.notThrows(() => execFileSync(`${root}scripts/schemas.mjs`, ['--check'], { stdio: 'pipe' }))
})

test('the JSON of doctor is as its schema says, and another is not', async t => {
  const { stdout } = await run('doctor', '--json')
  t.is(faultsOf(stdout, 'doctor'), '')
  t.not(faultsOf(stdout, 'list'), '')
  t.not(faultsOf('{"checks":[{"check":"x","status":"fine","detail":"","remedy":null}]}', 'doctor'), '')
  t.is(faultsOf('{"checks":[],"more":1}', 'doctor'), 'more is in no definition')
})
