import { release } from 'node:os'
import type { Command } from 'commander'
import { UblkError } from '../errors.js'
import { toJsonText } from '../json.js'
import native from '../native/load.cjs'
import { printable } from '../printable.js'
import { type Check, found } from './checks/check.js'
import { driverChecks } from './checks/driver.js'
import { Machine } from './checks/machine.js'
import { probeOf, storeChecks } from './checks/store.js'
import { print } from './output.js'

/** Adds `ublk-ts doctor`. */
export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description(
      'report what this machine lacks to serve ublk disks, and how to fix it; or whether an object store is fit for disks',
    )
    .argument(
      '[store]',
      'the URL of an object store to try out instead: s3://BUCKET/PREFIX, gs://…, az://…, file:///DIRECTORY',
    )
    .option('-J, --json', 'print one JSON object')
    .addHelpText('after', '\nExamples:\n  sudo ublk-ts doctor\n  ublk-ts doctor s3://disks/probe')
    .action(doctor)
}

async function doctor(store: string | undefined, options: { json?: boolean }): Promise<void> {
  if (store !== undefined) return await lookAt(store, options)
  const checks = await allChecks()
  await print(options.json ? toJsonText({ checks }, 2) : toLines(checks))
  if (checks.some(check => check.status === 'FAIL')) {
    throw new UblkError('system', 'this machine cannot serve ublk disks yet', {
      hint: 'see the lines marked FAIL',
    })
  }
}

/** Tries an object store out. */
async function lookAt(url: string, options: { json?: boolean }): Promise<void> {
  const probe = await probeOf(url)
  const checks = storeChecks(probe, process.env)
  await print(options.json ? toJsonText({ checks, store: probe }, 2) : toLines(checks))
  if (probe.verdict === 'unsound') {
    throw new UblkError('backend', `${probe.store} is not fit for disks`, {
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

function toLines(checks: readonly Check[]): string {
  const width = Math.max(10, ...checks.map(({ check }) => check.length))
  return checks.map(check => toLine(check, width)).join('\n')
}

function toLine(check: Check, width: number): string {
  const remedy = check.remedy === null ? '' : `; remedy: ${check.remedy}`
  return printable(`${check.status.padEnd(4)}  ${check.check.padEnd(width)}  ${check.detail}${remedy}`)
}
