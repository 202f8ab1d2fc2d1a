#!/usr/bin/env node
// usage: scripts/manual.mjs DIST
//
// Writes DIST/man/ublk-ts.1, the manual page, from the command line's definition in DIST. What help2man would read, the
// help of the whole, has no options of commands; and a page in Markdown would be a second one to keep true.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const dist = process.argv[2]
if (dist === undefined) throw new Error('usage: scripts/manual.mjs DIST')
const { buildProgram } = await import(pathToFileURL(join(dist, 'cli/program.js')).href)
const program = await buildProgram()
const help = program.createHelp()
/** The commands of one, each followed by those of its own. */
const commandsOf = parent =>
  help
    .visibleCommands(parent)
    .filter(command => command.name() !== 'help')
    .flatMap(command => [command, ...commandsOf(command)])
const commands = commandsOf(program)
/** What is typed for a command: `ublk-ts crash record`. */
const fullName = command =>
  command.parent ? `${fullName(command.parent)} ${command.name()}` : command.name()
/** The same without the program. */
const nameOf = command => fullName(command).replace(/^ublk-ts /, '')

/** What roff would take for typography. */
const glyphs = { '-': '\\-', "'": '\\(aq', '`': '\\(ga', '^': '\\(ha', '~': '\\(ti' }
/** Text as roff has it. */
const plain = text =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll(/[-'`^~]/g, sign => glyphs[sign])
    .replace(/^(?=\.)/, '\\&')
    .replaceAll(
      /[^\0-\x7f]/gu,
      sign => `\\[u${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}]`,
    )
const bold = text => `\\fB${plain(text)}\\fR`
const italic = text => `\\fI${plain(text)}\\fR`
/** `-o, --output <columns>`: what is typed in bold, what stands for something else in italics. */
const term = text =>
  text
    .split(/(<[^>]+>|\[[^\]]+\]|, )/)
    .map(part =>
      /^[<[]/.test(part) ? italic(part.replaceAll(/[<>]/g, '')) : part === ', ' ? part : bold(part),
    )
    .join('')
const sentence = text => plain(`${text[0].toUpperCase()}${text.slice(1)}${/[.:]$/.test(text) ? '' : '.'}`)
const entry = (name, ...lines) => ['.TP', name, ...lines]
const literal = lines => [
  '.RS 4',
  '.EX',
  ...lines.map(line => plain(line.replace(/^ {2}/, ''))),
  '.EE',
  '.RE',
]

/** The blocks that a command has under its help; a block is lines without an empty one between. */
function notes(command) {
  let text = ''
  command.configureOutput({ writeOut: more => (text += more) }).outputHelp()
  const after = text.slice(command.helpInformation().length).trim()
  return after === '' ? [] : after.split(/\n\n+/).map(block => block.split('\n'))
}
const isExample = ([first]) => /^Examples?:$/.test(first)

function note(lines) {
  const indented = lines.findIndex(line => line.startsWith('  '))
  if (indented === -1) return ['.PP', ...lines.map(plain)]
  return ['.PP', ...lines.slice(0, indented).map(plain), ...literal(lines.slice(indented))]
}

function describe(command) {
  const names = command.aliases().map(bold)
  return [
    `.SS ${nameOf(command)}`,
    [bold(fullName(command)), ...usage(command)].join(' '),
    '.PP',
    sentence(help.commandDescription(command)),
    ...(names.length > 0 ? [`Alias: ${names.join(', ')}.`] : []),
    ...help
      .visibleArguments(command)
      .flatMap(argument => entry(italic(argument.name()), sentence(help.argumentDescription(argument)))),
    ...options(command),
    ...notes(command)
      .filter(block => !isExample(block))
      .flatMap(note),
  ]
}

function usage(command) {
  return command
    .usage()
    .split(' ')
    .map(word => (word === '[options]' ? plain('[options]') : term(word)))
}

function options(command) {
  return help
    .visibleOptions(command)
    .filter(option => command === program || option.long !== '--help')
    .flatMap(option => entry(term(option.flags), sentence(help.optionDescription(option))))
}

const examples = [program, ...commands].flatMap(command =>
  notes(command)
    .filter(isExample)
    .map(([, ...lines]) => ({ name: nameOf(command), lines })),
)
const day = new Date(Number(process.env['SOURCE_DATE_EPOCH'] ?? Date.now() / 1000) * 1000)

const page = [
  `.TH UBLK\\-TS 1 ${day.toISOString().slice(0, 10)} "ublk\\-ts ${program.version()}" "User Commands"`,
  '.SH NAME',
  `ublk\\-ts \\- ${plain(program.description())}`,
  '.SH SYNOPSIS',
  ...commands
    .filter(command => command.commands.length === 0)
    .flatMap((command, at) => [
      ...(at > 0 ? ['.br'] : []),
      [bold(fullName(command)), ...usage(command)].join(' '),
    ]),
  '.SH DESCRIPTION',
  bold('ublk-ts'),
  plain(
    'makes disks, /dev/ublkb0 and on, that a process serves: it answers the requests that the ublk driver of the',
  ),
  plain('kernel passes on to it. It makes, lists and removes them, and watches over them.'),
  '.PP',
  plain(
    'Silence means success: a command prints what was asked for, and what went wrong in one line on standard error.',
  ),
  ...options(program),
  '.SH COMMANDS',
  ...commands.flatMap(describe),
  '.SH EXIT STATUS',
  ...entry('0', 'All is well.'),
  ...entry('1', 'Something failed; one line on standard error says what, and what to do about it.'),
  ...entry('2', 'The command line is wrong; nothing was done.'),
  '.SH ENVIRONMENT',
  ...entry(
    bold('UBLK_TS_ANY_KERNEL'),
    plain('If 1, devices are added also where the kernel is known to crash then: for one that was mended.'),
  ),
  ...entry(
    bold('UBLK_TS_DEBUG'),
    plain('If 1, a failure is told with the place in the program where it arose.'),
  ),
  ...entry(
    bold('UBLK_TS_RUN_DIR'),
    plain('Where servers keep their records, sockets and logs, instead of /run/ublk-ts.'),
  ),
  '.SH FILES',
  ...entry(italic('/dev/ublkbN'), 'The disk of device N.'),
  ...entry(italic('/dev/ublkcN'), plain("The server's side of device N.")),
  ...entry(italic('/dev/ublk-control'), 'Where devices are made. It is there when the driver is loaded.'),
  ...entry(
    italic('/run/ublk-ts/'),
    'What servers leave there about themselves, so that other commands find them.',
  ),
  ...entry(
    italic('/etc/ublk-ts/N.conf'),
    plain('For the service ublk-ts@N: ARGS= and what create is to be given.'),
  ),
  '.SH EXAMPLES',
  ...examples.flatMap(({ name, lines }, at) => [
    ...(at > 0 ? ['.PP'] : []),
    ...(name === 'ublk-ts' ? [] : [`${bold(name)}:`]),
    ...literal(lines),
  ]),
  '.SH SEE ALSO',
  '.BR losetup (8),',
  '.BR lsblk (8),',
  '.BR systemd.unit (5)',
  '.PP',
  plain("The driver: https://docs.kernel.org/block/ublk.html. Disks of one's own, and disks as services:"),
  plain('https://github.com/ublk-ts/ublk-ts.'),
]

mkdirSync(join(dist, 'man'), { recursive: true })
writeFileSync(join(dist, 'man/ublk-ts.1'), `${page.join('\n')}\n`)
