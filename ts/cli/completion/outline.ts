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
  /** With the commands that it belongs to, such as `crash record`. */
  readonly name: string
  /** Its other names, likewise. */
  readonly aliases: readonly string[]
  readonly summary: string
  readonly flags: readonly Flag[]
  /** Its arguments, of which the last may be `repeated`. */
  readonly values: readonly Value[]
  readonly repeated: boolean
  /** Commands of its own, of which one follows. */
  readonly commands: readonly Place[]
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
  return { root: place(program, '', names), commands: commands.map(command => place(command, '', names)) }
}

/** These commands, and those of their own. */
export function withTheirOwn(commands: readonly Place[]): Place[] {
  return commands.flatMap(command => [command, ...withTheirOwn(command.commands)])
}

/** What is typed for a command, after those that it belongs to. */
export function wordOf(name: string): string {
  return name.slice(name.lastIndexOf(' ') + 1)
}

/** The names of an option. */
export function namesOf({ short, long }: Flag): string[] {
  return [short, long].filter(name => name !== undefined)
}

/** @param before - What is typed before its name. */
function place(command: Command, before: string, commands: readonly string[]): Place {
  const name = before + command.name()
  const values = command.registeredArguments
  const own = command.parent ? help.visibleCommands(command) : []
  const words: Value = { kind: 'words', words: own.map(command => command.name()) }
  return {
    name,
    aliases: command.aliases().map(alias => before + alias),
    summary: help.subcommandDescription(command),
    flags: help.visibleOptions(command).map(flag),
    values: own.length > 0 ? [words] : values.map(argument => value(argument.name(), argument, commands)),
    repeated: values.at(-1)?.variadic ?? false,
    commands: own.map(command => place(command, `${name} `, [])),
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
  { argChoices, variadic }: { argChoices?: readonly string[] | undefined; variadic: boolean },
  commands: readonly string[],
): Value {
  if (argChoices) return { kind: 'words', words: argChoices }
  if (name === 'command' && !variadic) return { kind: 'words', words: commands }
  if (['path', 'file', 'files', 'module', 'log', 'command'].includes(name)) return { kind: 'files' }
  if (name === 'dir' || name === 'directory') return { kind: 'directories' }
  if (name === 'device') return { kind: 'devices' }
  return { kind: 'anything' }
}
