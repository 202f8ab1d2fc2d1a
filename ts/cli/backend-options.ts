import { type Command, Option } from 'commander'
import type { CommandOption, Described, Flags, Kind, MainOption } from '../backends/kind.js'
import { type Backend, KINDS, kindOf } from '../backends/list.js'
import { checkStack, lastingStack } from '../backends/stack.js'
import { invalid } from '../errors.js'
import { inOneLine } from '../user-values.js'
import { reading } from './option-reader.js'

/** Makes a backend of any kind. */
const ANY: MainOption = {
  flags: '--backend <json>',
  summary: 'a disk of any kind, described as in docs/options.md: {"kind":"file","path":"disk.img"}',
  make: text => {
    let backend: unknown
    try {
      backend = JSON.parse(text)
    } catch (error) {
      throw invalid(`the backend is not JSON: ${inOneLine(error)}`)
    }
    const kind = kindOf(backend)
    return kind && !kind.native ? kind.check(backend as Described) : checkStack(backend)
  },
}

/**
 * Adds the options of all kinds of backends to a command.
 *
 * @param without - Names of kinds that it does not take.
 */
export function addBackendOptions(command: Command, without: readonly string[] = []): Command {
  for (const { name, commandLine } of KINDS) {
    if (without.includes(name)) continue
    for (const main of commandLine?.mains ?? []) add(command, main, '')
    for (const option of commandLine?.more ?? []) {
      add(command, option, `with ${list(mainOptionsFor(option), 'or')}: `)
    }
  }
  add(command, ANY, '')
  return command
}

function add(command: Command, { flags, summary, parse }: CommandOption, prefix: string): void {
  const option = new Option(flags, prefix + summary)
  const read = (text: string, earlier: unknown): unknown => reading(text => parse?.(text, earlier))(text)
  command.addOption(parse ? option.argParser(read) : option)
}

/**
 * The backend that the command line asks for.
 *
 * @param lasting - Whether its data must outlive the server.
 * @param made - Called with the path of each file that is created for that.
 * @throws UblkError of kind `invalid` if it asks for none, or more than one, or has an option that belongs to others.
 */
export function toBackend(flags: Flags, lasting: boolean, made: (path: string) => void): Backend {
  const mains = [...KINDS.flatMap(kind => kind.commandLine?.mains ?? []), ANY]
  const given = mains.filter(main => isGiven(main, flags))
  const [main] = given
  if (!main) throw invalid('no backend given', `give ${list(mains.map(withValue), 'or')}`)
  if (given.length > 1)
    throw invalid('more than one backend given', `give only one of ${list(mains.map(longName), 'and')}`)
  for (const option of KINDS.flatMap(kind => kind.commandLine?.more ?? [])) {
    const owners = mainOptionsFor(option)
    if (isGiven(option, flags) && !owners.includes(longName(main)))
      throw invalid(`${longName(option)} is only for ${list(owners, 'and')}`)
  }
  const backend = KINDS.reduce(
    (backend, kind) => addedBy(kind, main, flags)?.make(backend, flags) ?? backend,
    main.make(flags[nameOf(main)] as string, flags),
  )
  return (lasting ? lastingStack(backend, made) : backend) as Backend
}

/** How a kind without a main option wraps the backend of another kind, if the command line asks for that. */
function addedBy(kind: Kind, main: CommandOption, flags: Flags): { make: MakeOver } | undefined {
  const { over, more = [] } = kind.commandLine ?? {}
  const wanted = over?.main.includes(longName(main)) && more.some(option => isGiven(option, flags))
  return wanted ? over : undefined
}

type MakeOver = (backend: Described, flags: Flags) => Described

/** The main options that an option can be combined with. */
function mainOptionsFor(option: CommandOption): string[] {
  const names = KINDS.flatMap(({ commandLine }) => {
    const { mains = [], more = [], also = [], over } = commandLine ?? {}
    const takes = more.includes(option) || also.includes(nameOf(option))
    const names = takes ? (option.of ?? mains.map(longName)) : []
    return [...names, ...(more.includes(option) ? (over?.main ?? []) : [])]
  })
  return [...new Set(names)]
}

/** An option that turns something off is given if its value is false. */
function isGiven(option: CommandOption, flags: Flags): boolean {
  const value = flags[nameOf(option)]
  return option.flags.startsWith('--no-') ? value === false : value !== undefined
}

/** `--mem-pages` of `--mem-pages <how>`. */
function longName({ flags }: CommandOption): string {
  return flags.split(' ', 1)[0] as string
}

/** `--mem SIZE` of `--mem <size>`. */
function withValue({ flags }: CommandOption): string {
  return flags.replace(/<(.+)>/, (_, value: string) => value.toUpperCase())
}

/** `memPages` of `--mem-pages <how>`. */
function nameOf({ flags }: CommandOption): string {
  return new Option(flags).attributeName()
}

function list(names: readonly string[], last: 'and' | 'or'): string {
  return names.length < 2 ? names.join() : `${names.slice(0, -1).join(', ')} ${last} ${names.at(-1)}`
}
