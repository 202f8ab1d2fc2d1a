import { type Command, Help, type Option } from 'commander'

/** What can stand in one place of a command line. */
export type Value =
  | { readonly kind: 'words'; readonly words: readonly string[] }
  | { readonly kind: 'files' | 'directories' | 'devices' | 'anything' }

/** An option. */
export interface Flag {
  readonly short: string | undefined
  readonly long: string | undefined
  readonly summary: string
  /** What is to follow it. */
  readonly value: Value | undefined
}

/** A command, or all that can stand before one. */
export interface Place {
  readonly name: string
  readonly aliases: readonly string[]
  readonly summary: string
  readonly flags: readonly Flag[]
  /** Its arguments, of which the last may be `repeated`. */
  readonly values: readonly Value[]
  readonly repeated: boolean
}

/** What a shell has to know about a program. */
export interface Outline {
  readonly root: Place
  readonly commands: readonly Place[]
}

const help = new Help()

/** Reads all of it from the program's definition; the kind of a value from its name there, as `path` in `<path>`. */
export function outline(program: Command): Outline {
  const commands = help.visibleCommands(program)
  const names = commands.map(command => command.name())
  return { root: place(program, names), commands: commands.map(command => place(command, names)) }
}

/** The names of an option. */
export function namesOf({ short, long }: Flag): string[] {
  return [short, long].filter(name => name !== undefined)
}

function place(command: Command, commands: readonly string[]): Place {
  const values = command.registeredArguments
  if (command.parent && command.commands.length > 0) {
    throw new Error(`${command.name()} has commands of its own, which completion does not know yet`)
  }
  return {
    name: command.name(),
    aliases: command.aliases(),
    summary: help.subcommandDescription(command),
    flags: help.visibleOptions(command).map(flag),
    values: values.map(argument => value(argument.name(), argument, commands)),
    repeated: values.at(-1)?.variadic ?? false,
  }
}

function flag(option: Option): Flag {
  const name = /[<[]([^\]>.]+)/.exec(option.flags)?.[1]
  return {
    short: option.short,
    long: option.long,
    summary: option.description,
    value: name === undefined ? undefined : value(name, option, []),
  }
}

function value(
  name: string,
  { argChoices }: { argChoices?: readonly string[] | undefined },
  commands: readonly string[],
): Value {
  if (argChoices) return { kind: 'words', words: argChoices }
  if (name === 'command') return { kind: 'words', words: commands }
  if (['path', 'file', 'files', 'module'].includes(name)) return { kind: 'files' }
  if (name === 'dir' || name === 'directory') return { kind: 'directories' }
  if (name === 'device') return { kind: 'devices' }
  return { kind: 'anything' }
}
