// The host's side of the benchmark: prepares, boots the lab's machine for guest.js, and reports what it measured.

import { execFileSync, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseOptions, USAGE, UsageError } from './options.js'
import { report } from './report.js'

const root = join(import.meta.dirname, '..')

try {
  process.exitCode = await main(parseOptions(process.argv.slice(2)))
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  process.stderr.write(`bench: ${error.message} (--help lists the options)\n`)
  process.exitCode = 2
}

async function main(options) {
  if (options.help) {
    process.stdout.write(`${USAGE}\n`)
    return 0
  }
  // Progress goes to stderr: stdout is for the table.
  if (options.setup) execFileSync(join(root, 'scripts/setup'), ['--bench'], { stdio: ['ignore', 2, 2] })
  const kublk = execFileSync(join(root, 'vm/peers'), { encoding: 'utf8' }).trim()

  const started = { date: new Date().toISOString(), load: loadavg()[0] }
  const records = []
  const status = await runGuest({ ...options, kublk }, record => records.push(record))
  if (status !== 0) return status

  const ended = { load: loadavg()[0] }
  process.stdout.write(report(records, { started, ended }))
  if (options.json) writeFileSync(options.json, `${JSON.stringify({ options, started, ended, records })}\n`)
  return 0
}

/** Runs guest.js and hands over each of its records. Returns its exit status. */
async function runGuest(options, onRecord) {
  const rounds = options.rounds * options.workloads.length * (options.targets.length + 1)
  const limit = Math.ceil(rounds * (options.seconds + 3)) + 300
  const guest = spawn(
    join(root, 'vm/run'),
    [
      '--timeout',
      `${limit}`,
      process.execPath,
      '--expose-gc',
      join(import.meta.dirname, 'guest.js'),
      JSON.stringify(options),
    ],
    { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const exit = new Promise(resolve => guest.on('exit', (code, signal) => resolve(signal ? 1 : code)))
  for await (const line of createInterface({ input: guest.stdout })) onRecord(JSON.parse(line))
  return await exit
}
