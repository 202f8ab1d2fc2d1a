import type { Command } from 'commander'
import type { UblkDevice } from '../device.js'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
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

/** What a disk keeps under names, such as checkpoints: one command makes or removes one, another lists them. */
export interface Named<Row> {
  /** The first command. */
  readonly one: string
  /** The second one, and the key in JSON. */
  readonly all: string
  /** Of each command, in a line. */
  readonly summaries: readonly [one: string, all: string]
  /** What a name may be. */
  readonly name: string
  /** What `--remove` does. */
  readonly removal: string
  readonly help: string
  readonly columns: readonly Column<Row>[]
  readonly make: (disk: UblkDevice, name: string) => Promise<void>
  readonly remove: (disk: UblkDevice, name: string) => Promise<void>
  readonly list: (disk: UblkDevice) => Promise<readonly Row[]>
}

/** Adds both commands. */
export function addNamed<Row>(program: Command, named: Named<Row>): void {
  const { one, all, summaries, columns } = named
  const device = ['<device>', 'such as 0, /dev/ublkb0 or the name of a disk'] as const
  const names = columns.map(({ name }) => name)
  program
    .command(one)
    .description(summaries[0])
    .argument(...device)
    .argument('<name>', named.name)
    .option('--remove', named.removal)
    .addHelpText('after', named.help)
    .action(async (text: string, name: string, { remove = false }: { remove?: boolean }) => {
      const disk = await opened(text)
      await (remove ? named.remove(disk, name) : named.make(disk, name))
    })
  const listing = program
    .command(all)
    .description(summaries[1])
    .argument(...device)
  addListingOptions(listing, columns, names, `ublk-ts ${all} 0`).action(
    async (text: string, options: ListingOptions) => {
      const selected = selectColumns(columns, names, options)
      const rows = await named.list(await opened(text))
      if (options.json) return await print(toJsonText(toJson(all, selected, rows), 2))
      const table = formatTable(selected, rows, options)
      if (table !== '') await print(table)
    },
  )
}

async function opened(device: string): Promise<UblkDevice> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  return await UblkDevice.open(id)
}
