import { spawn } from 'node:child_process'
import { once } from 'node:events'
import test from 'ava'
import { markOf, runs } from '../../dist/remote/identity.js'

test('a process is told from a later one with its number', async t => {
  const mark = markOf(process.pid)
  if (!mark) return t.fail()
  t.true(runs(mark))
  t.false(runs({ ...mark, started: mark.started - 1 }))
  const child = spawn('sleep', ['60'])
  const other = markOf(child.pid ?? 0)
  t.true(other && runs(other) && other.started >= mark.started)
  child.kill()
  await once(child, 'exit')
  t.false(other && runs(other))
})
