import type { Command } from 'commander'
import type { AutoChoice } from '../choice.js'
import type { Feature } from '../features.js'
import { toJsonText } from '../json.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'
import {
  addListingOptions,
  type Column,
  formatTable,
  type ListingOptions,
  selectColumns,
  toJson,
} from './table.js'

/** Its columns. */
export const featureColumns: readonly Column<Feature>[] = [
  { name: 'FEATURE', summary: "the kernel's name for it", value: row => row.name },
  { name: 'HAVE', summary: 'whether the running kernel supports it', value: row => row.supported },
  { name: 'SINCE', summary: 'the first kernel version that has it', value: row => row.since },
  { name: 'BIT', summary: 'its number', value: row => row.bit },
  { name: 'SUMMARY', summary: 'what it does', value: row => row.summary },
]
const usual = ['FEATURE', 'HAVE', 'SINCE', 'SUMMARY']

/** Those of how disks are served. */
export const choiceColumns: readonly Column<AutoChoice>[] = [
  { name: 'BACKEND', summary: 'kind of backend', value: row => row.backend },
  { name: 'TRANSPORT', summary: 'how requests travel: per-io or batch', value: row => row.choice.transport },
  { name: 'TRANSPORT-WHY', summary: 'reason for this transport', value: row => row.choice.transportBecause },
  { name: 'COPY', summary: 'how data travels: copy, user or zero', value: row => row.choice.copy },
  { name: 'COPY-WHY', summary: 'reason for this copy mode', value: row => row.choice.copyBecause },
]

const HELP = `
The second table shows how disks of each kind are served on this machine by default (create without --transport
and --copy), and why. With --output it is left out.`

/** Adds `ublk-ts features`. */
export function addFeatures(program: Command): void {
  const command = program
    .command('features')
    .description("list the features of this kernel's ublk driver, and how disks are served with them")
  addListingOptions(command, featureColumns, usual, 'ublk-ts features --json')
    .addHelpText('after', HELP)
    .action(show)
}

async function show(options: ListingOptions): Promise<void> {
  const selected = selectColumns(featureColumns, usual, options)
  const { autoChoices, features } = await loadApi()
  const rows = await features()
  const choices = options.output === undefined ? await autoChoices() : []
  if (options.json) {
    const second = options.output === undefined ? toJson('choices', choiceColumns, choices) : {}
    await print(toJsonText({ ...toJson('features', selected, rows), ...second }, 2))
    return
  }
  const tables = [formatTable(selected, rows, options), formatTable(choiceColumns, choices, options)]
  await print(tables.filter(table => table !== '').join('\n\n'))
}
