import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import type { Command } from 'commander'
import { invalid } from '../errors.js'
import { addDiskOptions, type DiskFlags, toOptions } from './create-options.js'
import { loadApi } from './load-api.js'
import { complain } from './output.js'

interface Flags extends DiskFlags {
  mkfs?: string
  mkfsOptions?: string
  mount?: string
  mountOptions?: string
}

const HELP = `
The command finds the disk in the variable UBLK_DISK, and its mount in UBLK_MOUNT. Signals are passed on to it. The exit status
is that of the command; 128 and the number of the signal that ended it. When the command has ended, the file system is unmounted
and the disk is removed, and so they are if this program is killed.

Example:
  ublk-ts run --mem 1G --mkfs ext4 --mount /mnt -- make -C /mnt test`

/** Signals that are passed on. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const

/** Adds `ublk-ts run`. */
export function addRun(program: Command): void {
  addDiskOptions(program.command('run').description('make a disk, run a command with it, and remove it'))
    .option('--mkfs <type>', 'make a file system of this type, such as ext4')
    .option('--mkfs-options <words>', 'with --mkfs: further arguments for mkfs, separated by spaces')
    .option('--mount <dir>', 'with --mkfs: mount it there; the directory is created if it does not exist')
    .option('--mount-options <list>', 'with --mount: options for mount, such as noatime,discard')
    .argument('<command...>', 'the command and its arguments, after --')
    .addHelpText('after', HELP)
    .action(runCommand)
}

async function runCommand(words: string[], flags: Flags): Promise<void> {
  const { mkfs, mkfsOptions, mount, mountOptions } = flags
  const only = (value: unknown, flag: string, other: string): void => {
    if (value !== undefined) throw invalid(`${flag} is only for ${other}`)
  }
  if (mkfs === undefined) {
    only(mkfsOptions, '--mkfs-options', '--mkfs')
    only(mount, '--mount', '--mkfs')
  }
  if (mount === undefined) only(mountOptions, '--mount-options', '--mount')
  const { options } = toOptions(flags, { lasting: false })
  const fileSystem =
    mkfs === undefined
      ? undefined
      : {
          fs: mkfs,
          mkfs: mkfsOptions?.split(' ').filter(word => word !== ''),
          mount: mount ?? false,
          options: mountOptions,
        }
  await loadApi()
  const { ScratchDisk } = await import('../mounting.js')
  // From here on signals are the command's: this program ends with it.
  using passing = new Passing()
  await using scratch = await ScratchDisk.create(options, fileSystem)
  const { disk, dir } = scratch
  process.exitCode = await passing.run(words, {
    UBLK_DISK: disk.path,
    ...(dir !== undefined && { UBLK_MOUNT: dir }),
  })
}

/** Passes signals on to a command. One that comes before the command runs keeps it from being run. */
class Passing implements Disposable {
  #command: ReturnType<typeof spawn> | undefined
  #first: NodeJS.Signals | undefined

  constructor() {
    for (const signal of SIGNALS) process.on(signal, this.#pass)
  }

  #pass = (signal: NodeJS.Signals): void => {
    this.#first ??= signal
    this.#command?.kill(signal)
  }

  /** Runs the command to its end. Returns the exit status that tells how it ended. */
  async run(words: readonly string[], variables: NodeJS.ProcessEnv): Promise<number> {
    if (this.#first) return 128 + constants.signals[this.#first]
    const [name = '', ...rest] = words
    const command = spawn(name, rest, { stdio: 'inherit', env: { ...process.env, ...variables } })
    this.#command = command
    return await new Promise(resolve => {
      command.once('error', ({ message, code }: NodeJS.ErrnoException) => {
        complain(`cannot run ${name}: ${code === 'ENOENT' ? 'there is no such command' : message}`)
        resolve(code === 'ENOENT' ? 127 : 126)
      })
      command.once('exit', (status, signal) =>
        resolve(status ?? 128 + (signal ? constants.signals[signal] : 0)),
      )
    })
  }

  [Symbol.dispose](): void {
    for (const signal of SIGNALS) process.off(signal, this.#pass)
  }
}
