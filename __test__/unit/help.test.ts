import test from 'ava'
import { Command } from 'commander'
import { COMMANDS } from '../../dist/cli/commands.js'
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
