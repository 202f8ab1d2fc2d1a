import type { Command } from 'commander'
import type { Feature } from '../features.js'
import { loadApi } from './api.js'
import { print } from './output.js'
import {
  addListingOptions,
  type Column,
  formatTable,
  type ListingOptions,
  selectColumns,
  toJson,
} from './table.js'

const columns: readonly Column<Feature>[] = [
  { name: 'FEATURE', summary: "the kernel's name for it", value: row => row.name },
  { name: 'HAVE', summary: 'whether the running kernel has it', value: row => row.supported },
  { name: 'SINCE', summary: 'the first kernel with it', value: row => row.since },
  { name: 'BIT', summary: 'its number', value: row => row.bit },
  { name: 'SUMMARY', summary: 'what it is for', value: row => row.summary },
]
const usual = ['FEATURE', 'HAVE', 'SINCE', 'SUMMARY']

/** Adds `ublk-ts features`. */
export function addFeatures(program: Command): void {
  const command = program.command('features').description("list the features of this kernel's ublk driver")
  addListingOptions(command, columns, usual, 'ublk-ts features --json').action(show)
}

async function show(options: ListingOptions): Promise<void> {
  const selected = selectColumns(columns, usual, options)
  const { features } = await loadApi()
  const rows = await features()
  if (options.json) await print(JSON.stringify(toJson('features', selected, rows), null, 2))
  else await print(formatTable(selected, rows, options))
}
