import { type Command, InvalidArgumentError, Option } from 'commander'
import type { Flags } from '../backends/kind.js'
import { invalid } from '../errors.js'
import { parseSeconds } from '../option-values.js'
import type { CreateOptions } from '../options/device-options.js'
import type { Option as DeviceOption } from '../options/option.js'
import { OPTIONS } from '../options/table.js'
import { sizeInWords, valuesInWords } from '../options/words.js'
import type { Pages } from '../pages.js'
import { addBackendOptions, toBackend } from './backend-options.js'
import { reading } from './option-reader.js'

/** The flags of `create` that describe the disk; those that the command itself looks at. */
export interface DiskFlags {
  id?: number
  buffers?: Pages
  recovery?: string
}

/** An option of a device that has a flag. */
type Flagged = DeviceOption & Required<Pick<DeviceOption, 'cli'>>

/**
 * Adds the options that describe the disk to a command: those of the table of options that have a flag.
 *
 * @param without - Names of kinds of backends that it does not take.
 */
export function addDiskOptions(command: Command, without: readonly string[] = []): Command {
  addBackendOptions(command, without)
  for (const [, option] of flagged()) command.addOption(flagOf(option))
  return command
}

/** Converts the command line's flags to options of the API. `scratch`: the files to remove together with the disk. */
export function toOptions(
  flags: DiskFlags,
  { lasting }: { lasting: boolean },
): { options: CreateOptions; scratch: string[] } {
  const scratch: string[] = []
  const all: Flags = { ...flags }
  const backend = toBackend(all, lasting || flags.recovery !== undefined, path => scratch.push(path))
  const given = flagged().flatMap(([name, option]) => {
    const value = optionValue(option, all[name])
    if (value === undefined) return []
    const { flags, with: other } = option.cli
    if (other !== undefined && all[attributeOf(other)] === undefined) {
      throw invalid(`${flags.split(' ', 1)[0]} is only for ${other}`)
    }
    return [[name, value]]
  })
  return { options: { backend, ...Object.fromEntries(given) }, scratch }
}

function flagged(): [name: string, option: Flagged][] {
  return Object.entries(OPTIONS).flatMap(([name, option]) => {
    const { cli } = option
    return cli ? [[name, { ...option, cli }]] : []
  })
}

function flagOf(option: Flagged): Option {
  const { takes, cli } = option
  const flag = new Option(cli.flags, describe(option))
  if (cli.parse) {
    const { parse } = cli
    return flag.argParser((text, earlier) => reading(text => parse(text, earlier))(text))
  }
  if (takes.type === 'choice') return flag.choices(Object.keys(takes.of))
  if (takes.type === 'count')
    return flag.argParser(takes.unit === 'milliseconds' ? reading(parseMilliseconds) : count)
  return isOnOff(option) ? flag.choices(['on', 'off']) : flag
}

/** What the help says of a flag. */
function describe({ takes, help, byDefault, kernel, cli }: Flagged): string {
  const choices = takes.type === 'choice' ? Object.entries(takes.of) : []
  const words = choices.map(
    ([word, { help, kernel }]) => `; ${word}: ${help}${kernel ? ` (kernel ${kernel})` : ''}`,
  )
  const text = cli.help ?? `${help}${valuesInWords(takes, 'cli')}${words.join('')}`
  const notes = [
    ...(kernel
      ? [`${kernel.for === undefined || cli.help ? '' : `${kernel.for}: `}kernel ${kernel.version}`]
      : []),
    ...(byDefault === undefined || cli.help || !cli.flags.includes('<')
      ? []
      : [`default: ${defaultOf(takes, byDefault)}`]),
  ]
  const prefix = cli.with === undefined ? '' : `with ${cli.with}: `
  return `${prefix}${text}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}`.replaceAll('`', '')
}

function defaultOf(takes: DeviceOption['takes'], value: string | number | boolean): string {
  if (takes.type === 'flag') return String(value).replaceAll('true', 'on').replaceAll('false', 'off')
  if (typeof value !== 'number') return String(value)
  if (takes.type === 'size') return sizeInWords(value, 'cli')
  return String(takes.type === 'count' && takes.unit === 'milliseconds' ? value / 1000 : value)
}

/** The value of the option for that of its flag, which is true without `--no-…`. */
function optionValue(option: Flagged, value: unknown): unknown {
  if (option.cli.flags.startsWith('--no-')) return value === false ? false : undefined
  return isOnOff(option) && value !== undefined ? value === 'on' : value
}

function isOnOff({ takes, cli }: Flagged): boolean {
  return takes.type === 'flag' && cli.flags.includes('<')
}

function attributeOf(flag: string): string {
  return new Option(flag).attributeName()
}

function parseMilliseconds(text: string): number {
  return Math.round(parseSeconds(text) * 1000)
}

function count(text: string): number {
  if (/^\d+$/.test(text)) return Number(text)
  throw new InvalidArgumentError('It must be a whole number.')
}
