import { spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { constants } from 'node:os'
import type { Command } from 'commander'
import { invalid } from '../errors.js'
import { addDiskOptions, type DiskFlags, toOptions } from './create-options.js'
import { report } from './failure.js'
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
and the disk is removed, and so they are if this program is killed. If that fails, the reason is printed, and the exit status is
that of the command unless it was 0.

With --mkfs, the rules of --fault and --profile are applied once the file system is made and mounted.

Example:
  ublk-ts run --mem 1G --mkfs ext4 --mount /mnt -- make -C /mnt test`

/** Signals that are passed on. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const

/** Signals that a terminal sends to all programs that run in its foreground. */
const KEYS: ReadonlySet<NodeJS.Signals> = new Set(['SIGINT', 'SIGQUIT'])

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
  if (flags.recovery !== undefined) {
    throw invalid(
      '--recovery is not for run',
      'the disk ends with the command, and no other server can take it over',
    )
  }
  await loadApi()
  const { ScratchDisk } = await import('../mounting/scratch-disk.js')
  using passing = new Passing()
  try {
    // With a record, ublk-ts fault, trace and the like reach the disk.
    const scratch = await ScratchDisk.create({ ...options, record: true }, fileSystem, passing.aborted)
    const { disk, dir } = scratch
    let status = 1
    try {
      status = await passing.run(words, {
        UBLK_DISK: disk.path,
        ...(dir !== undefined && { UBLK_MOUNT: dir }),
      })
    } finally {
      await scratch[Symbol.asyncDispose]().catch(error => {
        const failed = report(error)
        status ||= failed // That of the command is worth more.
      })
    }
    process.exitCode = status
  } catch (error) {
    if (passing.status === undefined) throw error
    process.exitCode = passing.status // A signal came before the command ran.
  }
}

/**
 * Passes signals on to a command. One that comes before the command runs keeps it from being run; one that comes afterwards ends
 * the wait for the file system.
 */
class Passing implements Disposable {
  readonly #aborting = new AbortController()
  #command: ReturnType<typeof spawn> | undefined
  #first: NodeJS.Signals | undefined

  constructor() {
    for (const signal of SIGNALS) process.on(signal, this.#pass)
  }

  /** A signal came while no command ran. */
  get aborted(): AbortSignal {
    return this.#aborting.signal
  }

  /** The exit status of a signal that came before the command ran. */
  get status(): number | undefined {
    return this.#first && 128 + constants.signals[this.#first]
  }

  #pass = (signal: NodeJS.Signals): void => {
    if (this.#command === undefined || hasEnded(this.#command)) {
      if (this.#command === undefined) this.#first ??= signal
      this.#aborting.abort()
    } else if (!(KEYS.has(signal) && hasTerminal())) {
      this.#command.kill(signal)
    }
  }

  /** Runs the command to its end. Returns the exit status that tells how it ended. */
  async run(words: readonly string[], variables: NodeJS.ProcessEnv): Promise<number> {
    if (this.status !== undefined) return this.status
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

function hasEnded({ pid, exitCode, signalCode }: ReturnType<typeof spawn>): boolean {
  return pid === undefined || exitCode !== null || signalCode !== null
}

/** Whether there is a terminal whose keys signal this program: they signal the command, too. */
function hasTerminal(): boolean {
  try {
    closeSync(openSync('/dev/tty', 'r'))
    return true
  } catch {
    return false
  }
}
