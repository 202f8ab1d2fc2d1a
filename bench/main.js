// The host's side of the benchmark: prepares, boots the lab's machine for guest.js, and reports what it measured.

import { spawn, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus, loadavg, release } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { draw } from './chart.js'
import { Failure, parseOptions, USAGE } from './options.js'
import { report } from './report.js'
import { heatsOf, SUITES } from './suites.js'
import { programOf } from './targets.js'
import { commitOf, versionsOf } from './versions.js'

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
  const disks = heatsOf(options).flatMap(heat => heat.disks)
  const nbd = disks.some(name => /^nbd|^client/.test(name)) ? ['nbdkit', 'nbd-client'] : []
  const curl = options.suite === 's3' ? ['curl'] : []
  for (const program of ['fio', 'strace', ...curl, ...nbd]) run(program, ['--version'])
  const programs = findPrograms(options, disks)

  const about = {
    command: ['npm run bench --', ...process.argv.slice(2)].join(' '),
    versions: versionsOf(root, programs, nbd.length > 0),
    host: { cpu: cpus()[0].model, cpus: cpus().length, kernel: release() },
    date: new Date().toISOString(),
    load: { before: loadavg()[0] },
  }
  const records = []
  for (const { parts, machine } of bootsOf(options)) {
    const given = { ...options, parts, programs }
    const status = await runGuest(given, machine, record => records.push(record))
    if (status !== 0) return status
  }
  about.load.after = loadavg()[0]
  process.stdout.write(report(records, { options, about }))
  if (options.json) writeFileSync(options.json, `${JSON.stringify({ options, about, records })}\n`)
  if (options.svg) writeFileSync(options.svg, draw(records, { options, about }))
  return 0
}

/** The programs of vm/peers that disks take: path and version, or why one is not available. */
function findPrograms({ suite, parts, other }, disks) {
  const names = new Set(disks.map(programOf).filter(Boolean))
  if (suite === 's3') names.add('versitygw')
  if (suite === 'growth' || parts.includes('create')) names.add('kublk')
  return Object.fromEntries(
    Array.from(names, name => {
      if (name === 'other') return [name, { path: other.program, version: commitOf(other.dir) }]
      const { status, stdout, stderr } = spawnSync(
        join(root, name === 'versitygw' ? 'vm/stores' : 'vm/peers', name),
        { encoding: 'utf8' },
      )
      process.stderr.write(stderr)
      const [path, version] = stdout.trim().split('\n')
      if (status === 0) return [name, { path, version }]
      if (!SUITES[suite].tolerant) throw new Failure(1, `${name} is not available`)
      return [name, { why: `it is not available here: ${stderr.trim().split('\n').at(-1).trim()}` }]
    }),
  )
}

/** The machines of a run, each with what is measured there: queues need CPUs that run at the same time. */
function bootsOf({ suite, parts }) {
  const machine = ['--memory', SUITES[suite].memory]
  if (suite !== 'growth') return [{ parts, machine }]
  const [here, there] = [parts.filter(part => part !== 'queues'), parts.filter(part => part === 'queues')]
  return [
    { parts: here, machine },
    { parts: there, machine: [...machine, '--kernel', 'newest', '--cpus', '4'] },
  ].filter(boot => boot.parts.length > 0)
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
async function runGuest(options, machine, onRecord) {
  const cells = heatsOf(options).reduce((sum, heat) => sum + heat.disks.length * heat.workloads.length, 20)
  const limit = Math.ceil(options.rounds * cells * (options.seconds + 3) + cells * 10) + 300
  // A peer that hangs until it is killed may make the kernel complain.
  const lenient = SUITES[options.suite].tolerant ? ['--lenient'] : []
  const patience = options.suite === 's3' ? 3000 : 0
  const command = [
    process.execPath,
    '--expose-gc',
    join(import.meta.dirname, 'guest.js'),
    JSON.stringify(options),
  ]
  const guest = spawn(
    join(root, 'vm/run'),
    ['--timeout', `${limit + patience}`, ...lenient, ...machine, ...command],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  const exit = new Promise(resolve => guest.on('exit', (code, signal) => resolve(signal ? 1 : code)))
  for await (const line of createInterface({ input: guest.stdout })) onRecord(JSON.parse(line))
  return await exit
}
