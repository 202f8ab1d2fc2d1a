import type { Command } from 'commander'
import { buildProgram } from '../../dist/cli/program.js'

/** All commands that the help lists, each followed by those of its own. */
export async function commands(): Promise<Command[]> {
  return commandsOf(await buildProgram())
}

function commandsOf(parent: Command): Command[] {
  const own = parent.createHelp().visibleCommands(parent)
  return own.flatMap(command => [command, ...commandsOf(command)])
}

/** What is typed for a command after `ublk-ts`, such as `crash record`. */
export function nameOf(command: Command): string {
  const { parent } = command
  return parent?.parent ? `${nameOf(parent)} ${command.name()}` : command.name()
}
