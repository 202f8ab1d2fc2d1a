import type { Command } from 'commander'
import type { FaultRule } from '../backends/fault-rules.js'
import { formatFaultRule, parseFaultRule } from '../backends/fault-text.js'
import type { FaultCount, FaultReport } from '../disk-faults.js'
import { invalid } from '../errors.js'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { print } from './output.js'
import { type Column, formatTable } from './table.js'

const HELP = `
Without rules and options it lists the rules, and how often each was applied. With rules, these replace all others. The
disk has to be created with --fault or --profile.

A rule is a list of fields. One says what happens:
  errno=NAME       the request fails: EIO, ENOSPC, ETIMEDOUT, ENODATA, …
  full=SIZE        further writes fail with ENOSPC
  delay=TIME       it takes longer: 5ms, 1ms..20ms (evenly) or 5ms~1ms (mean and deviation); with inTurn: one after another
  rate=SIZE        bytes a second; iops=N: requests a second; with burst=N: what can be saved up
  hang             it waits for --thaw
  lose             it is answered, and not done
  misdirect=SIZE   it is written that much further on
  tear=SIZE        only its first bytes are written
  corrupt          one bit is wrong
The others say to which requests: op=write (or read+write), range=OFFSET+LENGTH, meta, sequential, after=N, nth=N, every=N,
probability=0.01, times=N.

Examples:
  ublk-ts create --mem 64M --fault op=write,nth=3,errno=EIO
  ublk-ts fault 0 op=flush,hang,times=1
  ublk-ts fault 0 --thaw
  ublk-ts fault 0 --clear`

interface Flags {
  clear?: boolean
  thaw?: boolean
  profile?: string
  seed?: number
  json?: boolean
}

/** A rule with its place in the list. */
type Row = FaultCount & { readonly at: number }

const columns: readonly Column<Row>[] = [
  { name: 'RULE', summary: 'its place in the list', value: ({ at }) => at },
  { name: 'CONSIDERED', summary: 'how many requests it considered', value: ({ considered }) => considered },
  { name: 'APPLIED', summary: 'to how many it was applied', value: ({ applied }) => applied },
  { name: 'WHAT', summary: 'the rule', value: ({ rule }) => formatFaultRule(rule) },
]

/** Adds `ublk-ts fault`. */
export function addFault(program: Command): void {
  program
    .command('fault')
    .description('show or change what goes wrong with a disk')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('[rules...]', 'such as op=write,nth=3,errno=EIO', readRule)
    .option('--clear', 'remove all rules; what hangs goes on hanging')
    .option('--thaw', 'let the requests go on that hang')
    .option('--profile <name>', 'take the time that such a device takes: see ublk-ts create')
    .option('--seed <number>', 'determines what is drawn (default: 0)', reading(readSeed))
    .option('-J, --json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action(fault)
}

function readRule(text: string, earlier: FaultRule[] | undefined): FaultRule[] {
  return [...(earlier ?? []), reading(parseFaultRule)(text)]
}

function readSeed(text: string): number {
  if (/^\d+$/.test(text)) return Number(text)
  throw new Error('It must be a whole number.')
}

async function fault(device: string, rules: FaultRule[], flags: Flags): Promise<void> {
  const { clear = false, thaw = false, profile, seed, json = false } = flags
  const id = idOf(device)
  const sets = rules.length > 0 || profile !== undefined
  if (sets && clear) throw invalid('--clear is not for rules', 'rules replace all others anyway')
  if (seed !== undefined && !sets) throw invalid('--seed is only for rules and --profile')
  const { UblkDevice } = await loadApi()
  const { faults } = await UblkDevice.open(id)
  if (sets) await faults.set({ rules, profile: profile as FaultReport['profile'], seed })
  if (clear) await faults.clear()
  if (thaw) await faults.thaw()
  if (sets || clear || thaw) return
  const report = await faults.get()
  if (json) return await print(toJsonText(report, 2))
  const rows = report.rules.map((rule, at) => ({ ...rule, at }))
  const lines = rows.length > 0 ? [formatTable(columns, rows, {})] : []
  if (report.hanging > 0) lines.push(`hanging requests: ${report.hanging}`)
  if (lines.length > 0) await print(lines.join('\n'))
}
