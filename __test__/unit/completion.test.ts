import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { commands, nameOf } from '../support/commands.js'
import { completions, SHELLS } from '../support/shells.js'

// Real shells, into which keys are typed. Devices are completed in the tests that have some.

for (const shell of SHELLS) {
  test(`${shell} completes every command`, async t => {
    const names = (await commands()).map(nameOf)
    const first = names.filter(name => !name.includes(' ')).toSorted()
    const ofCrash = names.flatMap(name => /^crash (.+)/.exec(name)?.[1] ?? []).toSorted()
    t.true(ofCrash.includes('record'))
    t.deepEqual(await completions(shell, ['', 'help ', 'crash ']), [first, first, ofCrash])
  })

  test(`${shell} completes every option of every command`, async t => {
    const all = await commands()
    const options = all.map(command =>
      command
        .createHelp()
        .visibleOptions(command)
        .flatMap(option => option.long ?? [])
        .toSorted(),
    )
    const names = all.map(nameOf)
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
      'crash states --model bit': ['bit-rot'],
      'crash states --model=bit': ['bit-rot'],
      'crash mark 0 ': [],
    }
    t.deepEqual(await completions(shell, Object.keys(lines)), Object.values(lines))
  })

  test(`${shell} completes files where a path is wanted`, async t => {
    const dir = mkdtempSync('/tmp/files-')
    t.teardown(() => rmSync(dir, { recursive: true }))
    for (const name of ['one', 'other']) writeFileSync(`${dir}/${name}`, '')
    const both = [`${dir}/one`, `${dir}/other`]
    const lines = [
      `create --file ${dir}/o`,
      `create --direct --file=${dir}/o`,
      `crash states ${dir}/o`,
      `crash export 0 ${dir}/o`,
    ]
    t.deepEqual(await completions(shell, lines), Array(lines.length).fill(both))
  })
}
