import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { commands, nameOf } from '../support/commands.js'
import { sh } from '../support/program.js'

const root = fileURLToPath(new URL('../../', import.meta.url))
const PAGE = `${root}dist/man/ublk-ts.1`

/** The page as it is read, without bold type, on lines of any length. */
const text = async (): Promise<string> => await sh('mandoc -T utf8 -O width=500 "$1" | col -bx', PAGE)

test('the manual page is without faults', async t => {
  t.is(await sh('mandoc -T lint -W warning "$1"', PAGE), '')
})

test('the manual page has every command, with its options and its example', async t => {
  const page = await text()
  const [before = '', examples = ''] = page.split('\nEXAMPLES\n')
  for (const command of await commands()) {
    const name = nameOf(command)
    if (name === 'help') continue
    const section = before.split(`\n   ${name}\n`)[1]?.split(/\n {3}\S|\n\S/)[0] ?? ''
    t.regex(section, new RegExp(`^ +ublk-ts ${name} \\[options\\]`))
    for (const { long, description } of command.options) {
      t.true(section.includes(long ?? ''), `${long} of ${name}`)
      t.true(section.toLowerCase().includes(description.toLowerCase()), description)
    }
    t.regex(examples, new RegExp(`\n +${name}:\n( +.*\n)+`))
  }
})

test('the manual page has every variable of the environment that the program reads', async t => {
  const page = await text()
  const sources = readdirSync(`${root}ts`, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => readFileSync(`${root}ts/${name}`, 'utf8'))
  const read = new Set(sources.flatMap(source => source.match(/\bUBLK_TS_[A-Z_]+\b/g) ?? []))
  t.true(read.has('UBLK_TS_DEBUG'))
  for (const name of read) t.true(page.includes(name), name)
})
