import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { LogReader } from '../../dist/cli/log-reader.js'
import { readable } from '../../dist/cli/logs.js'

const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-log-'))
test.after.always(() => rmSync(dir, { recursive: true }))

test('what is escaped in a line of a log stays escaped when it is made readable', t => {
  const message = 'held by \u001b[2J\n2026-01-01T00:00:00.000Z INFO all is well\u0085'
  const line = JSON.stringify({ '@timestamp': 'now', level: 'warn', message })
  t.is(readable(line), 'now WARN held by \\x1b[2J\\n2026-01-01T00:00:00.000Z INFO all is well\\x85')
  t.is(readable('Segmentation fault'), 'Segmentation fault')
})

test('a log that is replaced by what cannot be read costs no other file', async t => {
  const path = join(dir, 'db.log')
  writeFileSync(path, 'one\n')
  const reader = new LogReader(path)
  t.deepEqual(reader.last(5), ['one'])
  appendFileSync(path, 'two\n')
  rmSync(path)
  const server = createServer()
  await new Promise<void>(resolve => server.listen(path, resolve))
  t.throws(() => reader.more(), { message: /^cannot read the log .*: ENXIO$/ })
  t.notThrows(() => reader[Symbol.dispose]())
  server.close()
})
