// The host's side of the benchmark: prepares, boots the lab's machine for guest.js, and reports what it measured.

import { spawn, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Failure, parseOptions, USAGE } from './options.js'
import { report } from './report.js'
import { disksOf, SUITES } from './suites.js'

const root = join(import.meta.dirname, '..')
process.env.PATH += ':/usr/sbin:/sbin' // where nbd-client is

try {
  process.exitCode = await main(parseOptions(process.argv.slice(2)))
} catch (error) {
  if (!(error instanceof Failure)) throw error
  process.stderr.write(`bench: ${error.message}\n`)
  process.exitCode = error.status
}

async function main(options) {
  if (options.help) {
    process.stdout.write(`${USAGE}\n`)
    return 0
  }
  if (options.setup) run(join(root, 'scripts/setup'), ['--bench'], 2) // stdout is for the tables
  const disks = disksOf(options.suite, options.targets)
  const nbd = disks.some(name => name.startsWith('nbd')) ? ['nbdkit', 'nbd-client'] : []
  for (const program of ['fio', 'strace', ...nbd]) run(program, ['--version'])
  const kublk = disks.includes('kublk') ? run(join(root, 'vm/peers')).trim() : undefined

  const started = { date: new Date().toISOString(), load: loadavg()[0] }
  const records = []
  const status = await runGuest({ ...options, kublk }, record => records.push(record))
  if (status !== 0) return status

  const ended = { load: loadavg()[0] }
  process.stdout.write(report(records, { options, started, ended }))
  if (options.json) writeFileSync(options.json, `${JSON.stringify({ options, started, ended, records })}\n`)
  return 0
}

/** Runs a program that makes something ready, with its messages on stderr; returns its output. */
function run(program, args = [], output = 'pipe') {
  const { error, status, stdout } = spawnSync(program, args, {
    encoding: 'utf8',
    stdio: ['ignore', output, 2],
  })
  if (error) throw new Failure(1, `cannot run ${program}: ${error.message}`)
  if (status !== 0) throw new Failure(1, `${program} failed`)
  return stdout
}

/** Runs guest.js and hands over each of its records. Returns its exit status. */
async function runGuest(options, onRecord) {
  const rounds = options.rounds * options.workloads.length * disksOf(options.suite, options.targets).length
  const limit = Math.ceil(rounds * (options.seconds + 3)) + 300
  const machine = ['--timeout', `${limit}`, '--memory', SUITES[options.suite].memory]
  const command = [
    process.execPath,
    '--expose-gc',
    join(import.meta.dirname, 'guest.js'),
    JSON.stringify(options),
  ]
  const guest = spawn(join(root, 'vm/run'), [...machine, ...command], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exit = new Promise(resolve => guest.on('exit', (code, signal) => resolve(signal ? 1 : code)))
  for await (const line of createInterface({ input: guest.stdout })) onRecord(JSON.parse(line))
  return await exit
}
