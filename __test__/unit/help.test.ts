import test from 'ava'
import { Command } from 'commander'
import { COMMANDS } from '../../dist/cli/commands.js'
import { COMMON, GROUPS } from '../../dist/cli/help/groups.js'
import { buildProgram } from '../../dist/cli/program.js'
import { commands, nameOf } from '../support/commands.js'
import { run } from '../support/program.js'

// Whatever the command line has, it explains; the manual page and the completion are made of the same.

for (const command of await commands()) {
  const name = nameOf(command)
  const help = command.createHelp()

  test(`${name}, its options and its arguments are described`, t => {
    t.not(command.description(), '')
    for (const option of help.visibleOptions(command)) t.not(option.description, '', option.flags)
    for (const argument of command.registeredArguments) {
      if (name !== 'help') t.not(argument.description, '', argument.name())
    }
  })

  if (name === 'help') continue // It comes with the library.
  test(`the help of ${name} has an example`, async t => {
    const { status, stdout, stderr } = await run(...name.split(' '), '--help')
    t.is(status, 0)
    t.is(stderr, '')
    t.regex(stdout, new RegExp(`\n\nExamples?:\n(  .*\n)*  .*ublk-ts ${name}`))
  })
}

test('the names by which commands are loaded are those that they have', async t => {
  for (const { names, load } of COMMANDS) {
    const program = new Command()
    ;(await load())(program)
    const given = program.commands.flatMap(command => [command.name(), ...command.aliases()])
    t.deepEqual(names, given)
  }
})

/** The help of a command as it is printed. */
async function helpOf(name: string, { all }: { all: boolean }): Promise<string> {
  let text = ''
  const program = await buildProgram(more => {
    text += more
  })
  program.short = !all
  const words = name.split(' ')
  words
    .reduce<Command | undefined>((found, word) => found?.commands.find(each => each.name() === word), program)
    ?.outputHelp()
  return text
}

test('the help of every command fits a screen, and says how to see the rest', async t => {
  for (const command of await commands()) {
    const name = nameOf(command)
    if (name === 'help') continue
    const [short, all] = [await helpOf(name, { all: false }), await helpOf(name, { all: true })]
    const lines = short.trimEnd().split('\n')
    t.true(lines.length <= 40, `${name} has ${lines.length} lines`)
    for (const line of lines) t.true(line.length <= 80, line)
    t.is(/^More: (.*)$/m.exec(short)?.[1] !== undefined, all !== short, name)
    for (const { flags } of command.createHelp().visibleOptions(command)) {
      t.true(all.includes(flags), `${flags} of ${name}`)
    }
  }
  t.is((await run('create', '--help')).stdout, await helpOf('create', { all: false }))
  t.is((await run('create', '--help', '--all')).stdout, await helpOf('create', { all: true }))
  t.is((await run('help', 'create')).stdout, await helpOf('create', { all: false }))
  const { stdout } = await run('--help')
  t.true(stdout.split('\n').length <= 40)
  t.regex(stdout, /^More: ublk-ts --help --all$/m)
})

test('every option of create is in a group, and what is said to be common exists', async t => {
  const all = await commands()
  const [create] = all.filter(command => nameOf(command) === 'create')
  const names = create?.options.map(({ long }) => long ?? '') ?? []
  const grouped = GROUPS.flatMap(([, group]) => group.join(' ').split(' '))
  for (const name of names) t.true(grouped.includes(name), name)
  for (const name of grouped) t.true(names.includes(name), name)
  for (const [of, words] of Object.entries(COMMON)) {
    const command = all.find(each => `ublk-ts ${nameOf(each)}` === of)
    if (command) {
      for (const word of words.split(' '))
        t.true(
          command.options.some(({ long }) => long === word),
          word,
        )
    } else
      for (const word of words.split(' '))
        t.true(
          all.some(each => nameOf(each) === word),
          word,
        )
  }
})
