import { version } from '../version.js'
import { COMMANDS } from './commands.js'
import { OurCommand } from './help/command.js'

/**
 * Builds the command line: all of it, or what a word needs that is typed first. The manual page and completion are
 * generated from it, too. It prints nothing itself: `write` gets help texts, and errors are thrown.
 */
export async function buildProgram(
  write: (help: string) => void = () => {},
  word: string | undefined = undefined,
): Promise<OurCommand> {
  const program = new OurCommand('ublk-ts')
    .description('Linux block devices served from Node.js, through the ublk driver')
    .version(version())
    .exitOverride()
    // What comes after a command is for that: also what comes after `--`.
    .enablePositionalOptions()
    .configureOutput({ writeOut: write, writeErr: () => {} })
    .addHelpText('after', '\nExample:\n  ublk-ts create --mem 16M')
  for (const { load } of neededFor(word)) (await load())(program)
  return program
}

/** Most of the start of a command would be to load the others. */
function neededFor(word: string | undefined): typeof COMMANDS {
  if (word === '--version' || word === '-V') return []
  const one = COMMANDS.filter(({ names }) => word !== undefined && names.includes(word))
  return one.length > 0 ? one : COMMANDS
}
