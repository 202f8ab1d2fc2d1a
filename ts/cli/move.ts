import { resolve } from 'node:path'
import type { Command } from 'commander'
import { file } from '../backends/file.js'
import type { Described } from '../backends/kind.js'
import type { NativeBackend } from '../backends/list.js'
import { memory } from '../backends/memory.js'
import { nbd } from '../backends/nbd.js'
import { wordsFor } from '../backends/stack.js'
import { invalid } from '../errors.js'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
import { parseSize } from '../size.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { print } from './output.js'
import { shown } from './progress.js'

const HELP = `
<target> is a path, of a file that is made, or of a block device; nbd://host/export or nbd+unix:///export?socket=PATH; or the
word memory. What a block device or an NBD server has is overwritten.

No request fails. When the target has all, the disk becomes it at one instant: show, recover and upgrade mean the target from
then on. If it is interrupted or fails, or the server is killed, the disk is whole: it is the old one, unless the command had
ended. What the disk was before stays where it is. Show how far it is with: ublk-ts show -o MOVED

Examples:
  ublk-ts move 0 disk.img
  ublk-ts move 0 nbd://backup.example/disk --rate 50M
  ublk-ts move 0 memory`

/** What a target's text may begin with, and what it means for a disk of some bytes. Any other is a path. */
const TARGETS: readonly [RegExp, (target: string, size: number) => Described][] = [
  [/^memory$/, (_, size) => memory(size)],
  [/^nbds?(\+unix)?:\/\//, target => nbd(target)],
  [
    /^[a-z][a-z0-9+.-]*:\/\//i,
    target => {
      throw invalid(`'${target}' is no target`, 'a path, nbd://…, nbd+unix://… or memory is')
    },
  ],
  [/^/, target => file(resolve(target))],
]

/** The backend that a target's text means. */
export function targetOf(target: string, size: number): Described {
  const [, make] = TARGETS.find(([begins]) => begins.test(target)) as (typeof TARGETS)[number]
  if (target === '') throw invalid('the target is empty', 'a path, nbd://…, nbd+unix://… or memory is one')
  return make(target, size)
}

interface Flags {
  rate?: number
  overwrite?: boolean
  json?: boolean
}

/** Adds `ublk-ts move`. */
export function addMove(program: Command): void {
  program
    .command('move')
    .description('move a disk that is in use to a file, a block device, an NBD server or memory')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('<target>', 'a path, nbd://host/export, nbd+unix://… or memory')
    .option(
      '--rate <size>',
      'copy at most this much per second, such as 50M (default: no limit)',
      reading(text => parseSize(text, 'rate')),
    )
    .option('--overwrite', 'to a file that has content, which is lost')
    .option('-J, --json', 'print one line of JSON')
    .addHelpText('after', HELP)
    .action(move)
}

async function move(device: string, to: string, { rate, overwrite = false, json }: Flags): Promise<void> {
  const id = idOf(device)
  targetOf(to, 4096) // A wrong one is refused before anything is asked.
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  const disk = await UblkDevice.open(id)
  const { size } = await disk.info()
  const began = performance.now()
  const target = targetOf(to, size) as NativeBackend
  const work = disk.move(target, { ...(rate === undefined ? {} : { rate }), overwrite, signal })
  await shown(work, async () => await disk.moving())
  if (!json) return
  const seconds = Math.round(performance.now() - began) / 1000
  await print(toJsonText({ id, backend: wordsFor(target), bytes: size, seconds }))
}
