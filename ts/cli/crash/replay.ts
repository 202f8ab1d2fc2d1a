import type { Command } from 'commander'
import { BUDGET, type CrashModel } from '../../crash-options.js'
import type { ServedDevice } from '../../served-device.js'
import { print } from '../output.js'
import { Check } from './check.js'
import { Interruption } from './interruption.js'
import { addLogOptions, type LogFlags, openLog } from './log.js'
import { modelOption } from './states.js'

interface Flags extends LogFlags {
  model?: CrashModel
}

const HELP = `
With a command, it is run as crash states runs it, but sees the terminal; its exit status is that of this command. Without one, the
path of the disk is printed, and the disk exists until Ctrl-C; while it is mounted or open, this waits until it is free, and a second
Ctrl-C removes it anyway. What is written to it is thrown away.

--model and --seed have to be those with which the state was found.

Examples:
  ublk-ts crash replay run.log 105.7
  ublk-ts crash replay run.log 105.7 -- e2fsck -fn {}`

/** Adds `ublk-ts crash replay`. */
export function addReplay(crash: Command): void {
  const command = crash
    .command('replay')
    .description('make the disk of a state again, and serve it or run a command on it')
    .addOption(modelOption())
  addLogOptions(command)
    .argument('<log>', 'the log, or the disk that is recorded')
    .argument('<state>', 'its id, as crash states prints it')
    .argument('[command...]', 'the command and its arguments, after --')
    .addHelpText('after', HELP)
    .action(replay)
}

async function replay(log: string, id: string, command: string[], flags: Flags): Promise<void> {
  if (command.length === 0) return await serve(log, id, flags)
  using interruption = new Interruption()
  try {
    const ends = interruption.signal
    await using disk = await openLog(log, flags, ends)
    const state = await disk.crashState(id, optionsFor(id, flags))
    const { status } = await new Check(command, { timeout: 0, ends, shown: true }).of(state)
    process.exitCode = status
  } catch (error) {
    if (interruption.status === undefined) throw error
    process.exitCode = interruption.status
  }
}

async function serve(log: string, id: string, flags: Flags): Promise<void> {
  const { interrupts } = await import('../../daemon/interrupts.js')
  const { openLog: openServerLog } = await import('../../daemon/log.js')
  const { removeDisk } = await import('../../daemon/serve-disk.js')
  const { first, second } = interrupts({ hangup: 'end' })
  let crashed: ServedDevice
  {
    await using disk = await openLog(log, flags, first)
    const state = await disk.crashState(id, optionsFor(id, flags))
    crashed = await state.disk({ signal: first })
  }
  try {
    await print(crashed.path)
    await new Promise<void>(resolve => {
      first.addEventListener('abort', () => resolve(), { once: true })
      crashed.once('exit', () => resolve()).once('deleted', () => resolve())
      if (first.aborted) resolve()
    })
  } finally {
    const told = openServerLog({ form: 'plain', level: 'warning', path: null })
    await removeDisk(crashed, second, told)
  }
}

/** Every state of a moment is looked for, however many were wanted. */
function optionsFor(id: string, { model }: Flags): { model?: CrashModel; budget: number } {
  const [, number = '0'] = /^\d+\.(\d+)$/.exec(id) ?? []
  return { budget: Math.max(BUDGET, Number(number) + 1), ...(model !== undefined && { model }) }
}
