import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { commands } from '../support/program.js'
import { completions, SHELLS } from '../support/shells.js'

// Real shells, into which keys are typed. Devices are completed in the tests that have some.

for (const shell of SHELLS) {
  test(`${shell} completes every command`, async t => {
    const names = commands().map(command => command.name())
    t.deepEqual(await completions(shell, ['', 'help ']), [names.toSorted(), names.toSorted()])
  })

  test(`${shell} completes every option of every command`, async t => {
    const all = commands()
    const options = all.map(command =>
      command
        .createHelp()
        .visibleOptions(command)
        .flatMap(option => option.long ?? [])
        .toSorted(),
    )
    const names = all.map(command => command.name())
    const found = await completions(
      shell,
      names.map(name => `${name} --`),
    )
    for (const [at, name] of names.entries()) {
      if (name !== 'help') t.deepEqual(found[at], options[at], name)
    }
  })

  test(`${shell} completes the choices that an option or an argument has, and sizes not at all`, async t => {
    const lines = {
      'create --write-cache ': ['off', 'on'],
      'create --write-cache=': ['off', 'on'],
      'create --mem 1M --write-cache of': ['off'],
      'completion ': ['bash', 'fish', 'zsh'],
      'completion bash ': [],
      'create --mem ': [],
      'ls --no': ['--noheadings'],
      'doctor ': [],
    }
    t.deepEqual(await completions(shell, Object.keys(lines)), Object.values(lines))
  })

  test(`${shell} completes files where a path is wanted`, async t => {
    const dir = mkdtempSync('/tmp/files-')
    t.teardown(() => rmSync(dir, { recursive: true }))
    for (const name of ['one', 'other']) writeFileSync(`${dir}/${name}`, '')
    const both = [`${dir}/one`, `${dir}/other`]
    t.deepEqual(await completions(shell, [`create --file ${dir}/o`, `create --direct --file=${dir}/o`]), [
      both,
      both,
    ])
  })
}
