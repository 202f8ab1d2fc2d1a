// seconds: 35
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import test from 'ava'
import { Detached, gone, leaveNoServerBehind } from '../support/detached.js'
import { MAIN, result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

test('the log of a server is printed, readable or as it is, also when its device is gone', async t => {
  const disk = await Detached.create('--mem 16M --name db')
  const { stdout, stderr, status } = await run('logs', 'db')
  t.deepEqual([status, stderr], [0, ''])
  t.regex(stdout, new RegExp(`^\\d{4}-.*Z INFO starting\\n.*Z INFO ${disk.path} is usable\\n$`))
  t.like(JSON.parse((await run('logs', '-n', '1', '--json', disk.path)).stdout), {
    level: 'INFO',
    device: disk.id,
  })
  writeFileSync(`/run/ublk-ts/${disk.id}.log.1`, 'earlier\n\u001b[2J\n')
  t.regex((await run('logs', 'db')).stdout, /^earlier\n\\x1b\[2J\n\d{4}-/)
  await sh('rm "$1"', `/run/ublk-ts/${disk.id}.log.1`)
  const { pid } = disk
  await run('delete', 'db')
  await gone(pid)
  t.regex((await run('logs', `${disk.id}`)).stdout, /was removed\n$/)
  t.regex((await run('logs', '77')).stderr, /^ublk-ts: there is no ublk device 77; .*\n$/)
  await Server.with('--null 1M', async ({ id, pid }) => {
    const told = await run('logs', `${id}`)
    t.is(told.status, 1)
    t.regex(told.stderr, new RegExp(`no log file: its server, process ${pid}, logs elsewhere`))
  })
})

test('a log is followed through a change of servers, until the device is deleted', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  const follower = shell('exec "$1" "$2" logs -f "$3"', process.execPath, MAIN, disk.path)
  const ended = result(follower)
  await once(follower.stdout as Readable, 'data')
  await disk.signal('SIGKILL')
  t.is((await run('recover', disk.path)).status, 0)
  t.is((await run('delete', disk.path)).status, 0)
  const { status, stdout, stderr } = await ended
  t.deepEqual([status, stderr], [0, ''])
  t.is(stdout.match(/is usable/g)?.length, 2, stdout)
  t.regex(stdout, /was removed\n$/)
})

test('SIGHUP has a server open its log again, so that logrotate may move it', async t => {
  const dir = mkdtempSync('/tmp/logs-')
  const path = `${dir}/db.log`
  const disk = await Detached.create(`--mem 16M --log-file ${path}`)
  const follower = shell('exec "$1" "$2" logs -f "$3"', process.execPath, MAIN, disk.path)
  const ended = result(follower)
  await once(follower.stdout as Readable, 'data') // It has the file open.
  renameSync(path, `${path}-old`)
  await disk.signal('SIGHUP', { ends: false })
  await until(
    () => existsSync(path) && readFileSync(path, 'utf8').includes('opened again'),
    'the log is opened again',
  )
  t.notRegex(readFileSync(`${path}-old`, 'utf8'), /opened again/)
  await run('delete', disk.path)
  // The server logs its last line after the command ends, and who follows the log waits for it.
  t.regex((await ended).stdout, /is usable\n.*opened again\n(?:.*\n)*.*was removed\n$/)
  t.regex(readFileSync(path, 'utf8'), /was removed/)
})

test('after SIGHUP the next server of --auto-restart logs to the new file', async t => {
  const dir = mkdtempSync('/tmp/logs-')
  const path = `${dir}/db.log`
  const disk = await Detached.create(`--mem 16M --recovery reissue --auto-restart --log-file ${path}`)
  const supervisor = Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${disk.pid}/status`, 'utf8'))?.[1])
  renameSync(path, `${path}-old`)
  const before = readFileSync(`${path}-old`, 'utf8')
  process.kill(supervisor, 'SIGHUP')
  const log = (): string => (existsSync(path) ? readFileSync(path, 'utf8') : '')
  await until(() => log().includes('opened again'), 'the log is opened again')
  await disk.signal('SIGKILL')
  await until(() => log().includes('is served by another process'), 'the next server serves')
  t.regex(log(), /is usable/)
  t.is(readFileSync(`${path}-old`, 'utf8'), before)
  await run('delete', disk.path)
})
