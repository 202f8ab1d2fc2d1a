import { CommanderError } from 'commander'
import { describe, report } from './failure.js'
import { complain, print } from './output.js'
import { buildProgram } from './program.js'

/** Runs the command line. Returns the exit status. */
export async function run(argv: string[]): Promise<number> {
  // A bug ends the command too, but in one line like any failure.
  process.on('uncaughtException', error => process.exit(report(error)))
  // Node prints them in lines of its own. It may do so with those of its start, which its options can disable.
  process.nextTick(() => {
    process.removeAllListeners('warning')
    process.on('warning', warning => complain(describe(warning).line))
  })
  let help = ''
  const write = (text: string): void => {
    help += text
  }
  try {
    const program = await buildProgram(write, argv[2])
    program.short = !argv.includes('--all')
    await program.parseAsync(argv).catch(error => {
      if (!(error instanceof CommanderError && error.exitCode === 0)) throw error
    })
    if (help !== '') await print(help)
    await new Promise<void>(resolve => process.nextTick(resolve)) // Node emits warnings on the next tick.
    return Number(process.exitCode ?? 0)
  } catch (error) {
    return report(error)
  }
}
