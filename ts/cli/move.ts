import { resolve } from 'node:path'
import type { Command } from 'commander'
import { file } from '../backends/file.js'
import type { Described } from '../backends/kind.js'
import type { NativeBackend } from '../backends/list.js'
import { memory } from '../backends/memory.js'
import { nbd } from '../backends/nbd.js'
import { s3 } from '../backends/s3.js'
import { wordsFor } from '../backends/stack.js'
import { invalid } from '../errors.js'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'
import { shown } from './progress.js'
import { rateOption } from './rate-option.js'

const HELP = `
<target> is a path, of a file that is made, or of a block device; nbd://host/export or nbd+unix:///export?socket=PATH; a
volume in an object store, such as s3://bucket/prefix, with --cache; or the word memory. What a block device, an NBD server
or a volume has is overwritten.

No request fails. When the target has all, the disk becomes it at one instant: show, recover and upgrade mean the target from
then on. If it is interrupted or fails, or the server is killed, the disk is whole: it is the old one, unless the command had
ended. What the disk was before stays where it is. Show how far it is with: ublk-ts show -o MOVED

Examples:
  ublk-ts move 0 disk.img
  ublk-ts move 0 nbd://backup.example/disk --rate 50M
  ublk-ts move 0 s3://bucket/disk --cache /var/cache/disk
  ublk-ts move 0 memory`

/** What a target's text may begin with, and what it means for a disk of some bytes. Any other is a path. */
const TARGETS: readonly [RegExp, (target: string, size: number, flags: VolumeFlags) => Described][] = [
  [/^memory$/, (_, size) => memory(size)],
  [/^nbds?(\+unix)?:\/\//, target => nbd(target)],
  [/^(s3|gs|az|file):\/\//, (target, size, flags) => volume(target, size, flags)],
  [
    /^[a-z][a-z0-9+.-]*:\/\//i,
    target => {
      throw invalid(`'${target}' is no target`, 'a path, nbd://…, nbd+unix://…, s3://… or memory is')
    },
  ],
  [/^/, target => file(resolve(target))],
]

/** The backend that a target's text means. */
export function targetOf(target: string, size: number, flags: VolumeFlags = {}): Described {
  const [, make] = TARGETS.find(([begins]) => begins.test(target)) as (typeof TARGETS)[number]
  if (target === '')
    throw invalid('the target is empty', 'a path, nbd://…, nbd+unix://…, s3://… or memory is one')
  return make(target, size, flags)
}

function volume(url: string, size: number, { cache, cacheMax, durable }: VolumeFlags): Described {
  if (cache === undefined)
    throw invalid('a volume in an object store needs --cache, a directory of this machine')
  const max = cacheMax === undefined ? {} : { cacheMax }
  return s3(url, { cache: resolve(cache), size, ...max, ...(durable === undefined ? {} : { durable }) })
}

/** What is said of a volume that is the target. */
interface VolumeFlags {
  cache?: string
  cacheMax?: string
  durable?: 'object' | 'local'
}

interface Flags extends VolumeFlags {
  rate?: number
  overwrite?: boolean
  json?: boolean
}

/** Adds `ublk-ts move`. */
export function addMove(program: Command): void {
  program
    .command('move')
    .description('move a disk that is in use to a file, a block device, a server, an object store or memory')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('<target>', 'a path, nbd://host/export, nbd+unix://…, s3://bucket/prefix or memory')
    .addOption(rateOption())
    .option('--cache <path>', 'of a volume: a directory for what is not stored yet, and what was read')
    .option('--cache-max <size>', 'of a volume: the most that its cache takes up')
    .option('--durable <where>', 'of a volume: what a flush promises, object or local')
    .option('--overwrite', 'to a file or volume that has content, which is lost')
    .option('-J, --json', 'print one line of JSON')
    .addHelpText('after', HELP)
    .action(move)
}

async function move(device: string, to: string, flags: Flags): Promise<void> {
  const { rate, overwrite = false, json } = flags
  const id = idOf(device)
  targetOf(to, 4096, flags) // A wrong one is refused before anything is asked.
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  const disk = await UblkDevice.open(id)
  const { size } = await disk.info()
  const began = performance.now()
  const target = targetOf(to, size, flags) as NativeBackend
  const work = disk.move(target, { ...(rate === undefined ? {} : { rate }), overwrite, signal })
  await shown(work, async () => await disk.moving())
  if (!json) return
  const seconds = Math.round(performance.now() - began) / 1000
  await print(toJsonText({ id, backend: wordsFor(target), bytes: size, seconds }))
}
