import { readFileSync } from 'node:fs'
import { posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { OPTIONS } from '../../dist/options/table.js'
import { commands, nameOf } from '../support/commands.js'
import { buildSite, SITE } from '../support/site.js'

// The site as files: what its reference has, and that no link leads nowhere.

const root = fileURLToPath(new URL('../../', import.meta.url))
const pages = buildSite()
const read = (page: string): string => readFileSync(`${SITE}${page}`, 'utf8')
const textOf = (html: string): string =>
  html
    .replaceAll(/<[^>]*>/g, '')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')

/** What a module exports, as its source says: names, types too. */
function exportsOf(source: string): string[] {
  const text = readFileSync(`${root}ts/${source}`, 'utf8')
  const lists = [...text.matchAll(/^export (?:type )?\{([^}]*)\}/gm)].flatMap(([, names = '']) =>
    names.split(','),
  )
  const own = [...text.matchAll(/^export (?:async )?(?:class|function|interface|type|const) (\w+)/gm)].map(
    ([, name = '']) => name,
  )
  return [...new Set([...lists.map(name => name.trim().replace(/^type /, '')), ...own])].filter(
    name => name !== '',
  )
}

for (const [module, source] of [
  ['ublk-ts', 'index.ts'],
  ['ublk-ts_testing', 'testing/index.ts'],
]) {
  test(`the reference has everything that ${module} exports`, t => {
    const names = exportsOf(source as string)
    t.true(names.length >= 10)
    const kinds = ['classes', 'functions', 'interfaces', 'types', 'variables']
    for (const name of names) {
      const page = kinds.map(kind => `${kind}/${module}.${name}.html`).find(page => pages.includes(page))
      t.truthy(page, name)
      if (page !== undefined) t.regex(textOf(read(page)), new RegExp(`\\b${name}\\b`), name)
    }
  })
}

test('the reference has every command, with its options', async t => {
  const page = read('pages/command-line.html')
  for (const command of await commands()) {
    const name = nameOf(command)
    if (name === 'help') continue
    const id = name.replaceAll(' ', '-')
    t.true(page.includes(`id="${id}"`), name)
    const section = textOf(page.slice(page.indexOf(`id="${id}"`)).split(/<h[23] id="(?!.*<h[23])/)[0] ?? '')
    for (const { long } of command.options) t.true(section.includes(long ?? ''), `${long} of ${name}`)
  }
})

test('the reference has every option of a device, and the statuses with which commands exit', t => {
  const options = textOf(read('pages/options.html'))
  for (const name of Object.keys(OPTIONS)) t.true(options.includes(name), name)
  t.regex(read('pages/command-line.html'), /id="exit-statuses"/)
})

test('no link of the site leads nowhere', t => {
  const ids = new Map(
    pages.map(page => [
      page,
      new Set(Array.from(read(page).matchAll(/ id="([^"]+)"/g), ([, id = '']) => id)),
    ]),
  )
  let links = 0
  for (const page of pages) {
    for (const [, target = ''] of read(page).matchAll(
      /<(?:a|link|script|img)\b[^>]*? (?:href|src)="([^"]*)"/g,
    )) {
      if (/^(https?:|data:|mailto:)/.test(target)) continue
      links++
      const [path = '', anchor = ''] = target.replaceAll('&amp;', '&').split('#')
      const file =
        path === '' ? page : posix.normalize(posix.join(posix.dirname(page), path.split('?')[0] ?? ''))
      const there = file.endsWith('.html')
        ? ids.get(decodeURI(file))
        : readFileSync(`${SITE}${decodeURI(file)}`)
      t.truthy(there, `${page}: ${target}`)
      if (anchor !== '' && there instanceof Set)
        t.true(there.has(decodeURIComponent(anchor)), `${page}: ${target}`)
    }
  }
  t.true(links > 5000)
})
