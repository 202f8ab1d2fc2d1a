import { createInterface } from 'node:readline'
import type { Command } from 'commander'
import { idOf } from '../../remote/names.js'
import { loadApi } from '../load-api.js'
import { print } from '../output.js'

const HELP = `
Set a mark when your program has promised something: the states after it have the mark, and the check knows what has to be there.
Without a name, names are read from standard input, a line each, and each is printed once it is set: a program that sets many marks
starts this command once.

Examples:
  ublk-ts crash mark 0 'paid 17'
  while read -r n; do ./pay "$n"; echo "paid $n"; done <n | ublk-ts crash mark 0`

/** Adds `ublk-ts crash mark`. */
export function addMark(crash: Command): void {
  crash
    .command('mark')
    .description('give the present moment of a recorded disk a name')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('[name]', 'the mark')
    .addHelpText('after', HELP)
    .action(mark)
}

async function mark(device: string, name: string | undefined): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const disk = await UblkDevice.open(id)
  if (name !== undefined) return await disk.mark(name)
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === '') continue
    await disk.mark(line)
    await print(line)
  }
}
