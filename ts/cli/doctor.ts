import { release } from 'node:os'
import type { Command } from 'commander'
import { UblkError } from '../errors.js'
import { toJsonText } from '../json.js'
import native from '../native/load.cjs'
import { printable } from '../printable.js'
import { type Check, found } from './checks/check.js'
import { driverChecks } from './checks/driver.js'
import { Machine } from './checks/machine.js'
import { print } from './output.js'

/** Adds `ublk-ts doctor`. */
export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('report what this machine lacks to serve ublk disks, and how to fix it')
    .option('-J, --json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  sudo ublk-ts doctor')
    .action(doctor)
}

async function doctor(options: { json?: boolean }): Promise<void> {
  const checks = await allChecks()
  await print(options.json ? toJsonText({ checks }, 2) : checks.map(toLine).join('\n'))
  if (checks.some(check => check.status === 'FAIL')) {
    throw new UblkError('system', 'this machine cannot serve ublk disks yet', {
      hint: 'see the lines marked FAIL',
    })
  }
}

async function allChecks(): Promise<Check[]> {
  const reason = native.unsupported()
  if (reason) return [found('system', 'FAIL', reason.message, reason.hint)]
  const machine = new Machine('', release(), process.getuid?.() ?? 0)
  const tried = await driverChecks(machine)
  const seen = await machine.checks()
  // Trying io_uring is more reliable than reading settings from files.
  return [...seen.filter(({ check }) => tried.every(other => other.check !== check)), ...tried]
}

function toLine(check: Check): string {
  const remedy = check.remedy === null ? '' : `; remedy: ${check.remedy}`
  return printable(`${check.status.padEnd(4)}  ${check.check.padEnd(10)}  ${check.detail}${remedy}`)
}
