import test from 'ava'
import { STATES } from '../support/crash.js'
import { leaveNothingBehind } from '../support/devices.js'
import { writePrograms } from '../support/documents.js'
import { sh } from '../support/program.js'

// The programs of the guide, as they are shown. UBLK_TS_CRASH_STATES=100 tries more states, and PostgreSQL, too: it takes seconds
// for each state, and Debian's package postgresql.

leaveNothingBehind(test)

const programs = writePrograms('docs/databases.md')

/** What a program of the guide says with some settings: its last line, and how many states it has found wrong. */
async function run(program: string, ...settings: string[]): Promise<{ tried: number; wrong: number }> {
  const path = programs.find(path => path.endsWith(`/${program}.mjs`)) ?? ''
  const out = await sh('node "$@"', path, ...settings, String(STATES))
  const [, tried, wrong] = /^(\d+) states, (\d+) wrong\n$/m.exec(out) ?? []
  return { tried: Number(tried), wrong: Number(wrong) }
}

test('SQLite with a write-ahead log survives power cuts', async t => {
  t.deepEqual(await run('sqlite', 'WAL', 'FULL'), { tried: STATES, wrong: 0 })
})

test('LevelDB survives power cuts if each write is made durable', async t => {
  t.deepEqual(await run('leveldb', 'true'), { tried: STATES, wrong: 0 })
})

test('LevelDB does not survive power cuts if writes are not made durable', async t => {
  t.true((await run('leveldb', 'false')).wrong > 0)
})

const slow = process.env['UBLK_TS_CRASH_STATES'] === undefined ? test.skip : test

slow('PostgreSQL survives power cuts', async t => {
  t.deepEqual(await run('postgresql', 'fsync=on'), { tried: STATES, wrong: 0 })
})

slow('PostgreSQL does not survive power cuts without fsync', async t => {
  t.true((await run('postgresql', 'fsync=off')).wrong > 0)
})
