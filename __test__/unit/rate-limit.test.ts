import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { LogFile } from '../../dist/daemon/log-file.js'
import { rateLimited } from '../../dist/daemon/rate-limit.js'

test('ten things a second are told, and how many more there were', async t => {
  const told: unknown[] = []
  const tell = rateLimited<number>(
    what => told.push(what),
    more => told.push(`${more} more`),
  )
  for (let at = 0; at < 1000; at++) tell(at)
  t.deepEqual(told, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  await sleep(1200)
  t.is(told.at(-1), '990 more')
  tell(1000)
  t.is(told.at(-1), 1000)
  t.is(told.length, 12)
})

test('what comes seldom is told at once, each', async t => {
  let told = 0
  const tell = rateLimited<number>(
    () => told++,
    () => t.fail(),
  )
  for (let at = 0; at < 15; at++) {
    tell(at)
    await sleep(120)
  }
  t.is(told, 15)
})

test('a log begins anew when it is large, one earlier one is kept, and none gets larger', t => {
  const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-log-'))
  const path = join(dir, '0.log')
  const LARGEST = 64 * 1024
  const [one, other] = [openSync(path, 'a', 0o600), openSync(path, 'a')]
  const [server, successor] = [new LogFile(one, LARGEST), new LogFile(other, LARGEST)] // of two processes
  for (let line = 0; line < 10_000; line++) {
    const log = line % 3 ? server : successor
    log.write(`${line} ${'x'.repeat(100)}\n`)
  }
  t.deepEqual(readdirSync(dir).sort(), ['0.log', '0.log.1'])
  const SLACK = 2 * (LARGEST / 64) + 200
  for (const name of ['0.log', '0.log.1']) {
    t.true(statSync(join(dir, name)).size <= LARGEST + SLACK)
    t.is(statSync(join(dir, name)).mode & 0o777, 0o600)
  }
  const lines = ['0.log.1', '0.log'].flatMap(name => readFileSync(join(dir, name), 'utf8').trim().split('\n'))
  const numbers = lines.map(line => Number(line.split(' ')[0]))
  t.is(numbers.at(-1), 9999)
  t.true(
    numbers.every((number, at) => at === 0 || number === (numbers[at - 1] ?? 0) + 1),
    'none is lost between',
  )
  for (const file of [one, other]) closeSync(file)
  rmSync(dir, { recursive: true })
})

test('where there is no room a line is lost, and nothing else', t => {
  const full = openSync('/dev/full', 'a')
  t.notThrows(() => new LogFile(full).write('lost\n'))
  closeSync(full)
})
