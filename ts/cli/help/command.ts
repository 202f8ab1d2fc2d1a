import { type AddHelpTextContext, type AddHelpTextPosition, Command, Help, type Option } from 'commander'
import { COMMON, GROUPS } from './groups.js'
import { wrapText } from './wrap.js'

/** The longest help without `--all`, in lines: a screen. */
export const SCREEN = 40

/** The width of the help where there is no terminal. */
const COLUMNS = 80

/**
 * A command whose help fits a screen: if all of it does not, it has the usual options, and `--help --all` shows the rest. The
 * definition has everything: the manual page and completion are made from it.
 */
export class OurCommand extends Command {
  /** Of the root: whether the help of all commands is to be short. */
  short = false

  override createCommand(name?: string): OurCommand {
    return new OurCommand(name)
  }

  override createHelp(): Help {
    return new OurHelp()
  }

  override addHelpText(
    position: AddHelpTextPosition,
    text: string | ((context: AddHelpTextContext) => string),
  ): this {
    return super.addHelpText(position, context => {
      const whole = typeof text === 'string' ? text : text(context)
      const wrapped = wrapText(whole, this.helpWidth)
      return isShort(this) ? this.#shortText(wrapped) : wrapped
    })
  }

  get helpWidth(): number {
    return this.configureOutput().getOutHelpWidth?.() ?? COLUMNS
  }

  /** The example, and of the other paragraphs as many as there is room for. */
  #shortText(text: string): string {
    const paragraphs = text.split('\n\n')
    const used = linesOf(this.helpInformation())
    const limited = COMMON[nameOf(this)] !== undefined
    const fits = (some: readonly string[]): boolean => used + linesOf(some.join('\n\n')) <= SCREEN - MARGIN
    if (fits(paragraphs) && !limited) return text
    const kept = paragraphs.filter(isExample)
    for (const paragraph of paragraphs) {
      if (isExample(paragraph)) continue
      const more = [...kept.slice(0, -1), paragraph, ...kept.slice(-1)]
      if (!fits(more)) break
      kept.splice(kept.length - 1, 0, paragraph)
    }
    return `${kept.join('\n\n').replace(/^\n?/, '\n')}\n\n${more(this)}`
  }
}

/** Lines that are kept free for what says how to see the rest. */
const MARGIN = 2

function isExample(paragraph: string): boolean {
  return /^\n?Examples?:/.test(paragraph)
}

function linesOf(text: string): number {
  return text.trimEnd().split('\n').length
}

function isShort(command: Command): boolean {
  let root: Command = command
  while (root.parent) root = root.parent
  return root instanceof OurCommand && root.short
}

function nameOf(command: Command): string {
  return command.parent ? `${nameOf(command.parent)} ${command.name()}` : command.name()
}

function more(command: Command): string {
  return `More: ${nameOf(command)} --help --all`
}

/** The name by which an option is looked up. */
function longOf({ long, short }: Option): string {
  return long ?? short ?? ''
}

class OurHelp extends Help {
  override formatHelp(command: Command, helper: Help): string {
    arrange(command)
    const whole = super.formatHelp(command, helper)
    const common = COMMON[nameOf(command)]
    if (!isShort(command) || common === undefined) return whole
    return super.formatHelp(command, new ShortHelp(common.split(' '), helper.helpWidth))
  }

  override subcommandTerm(command: Command): string {
    const [alias] = command.aliases()
    return alias === undefined ? command.name() : `${command.name()}, ${alias}`
  }
}

/** Shows what is common, in fewer words. */
class ShortHelp extends OurHelp {
  readonly #common: readonly string[]

  constructor(common: readonly string[], width: number | undefined) {
    super()
    this.#common = common
    if (width !== undefined) this.helpWidth = width
  }

  override visibleOptions(command: Command): Option[] {
    const all = super.visibleOptions(command)
    const some = all.filter(option => this.#common.includes(longOf(option)))
    return some.length > 0 ? some : all
  }

  override visibleCommands(command: Command): Command[] {
    return super.visibleCommands(command).filter(each => this.#common.includes(each.name()))
  }

  override optionDescription({ description }: Option): string {
    return shortened(description)
  }

  override subcommandDescription(command: Command): string {
    return shortened(super.subcommandDescription(command)).replace(/(: |, and ).*$/, '')
  }
}

/** Without what an option goes with, if that is a long list, its range and default, and what follows a semicolon. */
function shortened(description: string): string {
  return description
    .replace(/^with [^:]{20,}: /, '')
    .replace(/;.*$/, '')
    .replace(/( \([^()]*\))+$/, '')
    .replace(/: \d+ to \d+$/, '')
}

/** Puts the options of a command with many into groups. */
function arrange(command: Command): void {
  const groups = GROUPS.map(([heading, names]) => [heading, names.join(' ').split(' ')] as const)
  const has = (name: string): boolean => command.options.some(option => longOf(option) === name)
  if (!has('--mem')) return
  for (const option of command.options) {
    const group = groups.find(([, names]) => names.includes(longOf(option)))
    if (group) option.helpGroup(group[0])
  }
  // The order of groups is that in which their first options were defined.
  const order = (option: Option): number => {
    const at = groups.findIndex(([heading]) => heading === option.helpGroupHeading)
    return at === -1 ? groups.length : at
  }
  ;(command.options as Option[]).sort((one, other) => order(one) - order(other))
}
