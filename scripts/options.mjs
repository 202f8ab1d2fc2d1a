#!/usr/bin/env node
// usage: scripts/options.mjs [--check]
//
// Writes what is made of the table of options (ts/options/table.ts): ts/options/device-options.ts, and the rows in docs/options.md.
// It reads the compiled table: `npm run generate` compiles it first. With --check it only says whether both are as they
// have to be.
import { readFileSync, writeFileSync } from 'node:fs'
import { OPTIONS } from '../dist/options/table.js'
import { sizeInWords, unitInWords, valuesInWords } from '../dist/options/words.js'

const INTERFACES = 'ts/options/device-options.ts'
const PAGE = 'docs/options.md'
const HEADER = '| option | default | |\n|---|---|---|\n'

const path = name => new URL(`../${name}`, import.meta.url)
const options = Object.entries(OPTIONS)

write(INTERFACES, interfaces())
write(PAGE, page(readFileSync(path(PAGE), 'utf8')))

function write(file, wanted) {
  if (!process.argv.includes('--check')) {
    writeFileSync(path(file), wanted)
  } else if (readFileSync(path(file), 'utf8') !== wanted) {
    process.stderr.write(`${file} does not match ts/options/table.ts: run npm run generate\n`)
    process.exitCode = 1
  }
}

function interfaces() {
  const ofDevice = options.filter(([, { call }]) => !call)
  const ofCall = options.filter(([, { call }]) => call)
  const serving = options.flatMap(([name, { scope }]) => (scope === 'serve' ? [`  | '${name}'\n`] : []))
  return `// Written by scripts/options.mjs from ts/options/table.ts: change that, and run the script.

${imports()}
/** What kind of disk to create. Sizes are in bytes, or text such as \`'64K'\`. */
export interface DeviceOptions {
${ofDevice.map(member).join('')}}

/** How to create a device; everything except \`backend\` has a default. */
export interface CreateOptions extends DeviceOptions {
${ofCall.map(member).join('')}}

/** The options that concern the server of a device: another server can give them anew. */
export type ServingOption =
${serving.join('')}`
}

function imports() {
  const types = { '../size.js': ['Size'] }
  for (const [, { takes }] of options) {
    if (takes.from === undefined) continue
    types[takes.from] ??= []
    types[takes.from].push(takes.name.split(' | ').at(-1))
  }
  const files = Object.keys(types).sort()
  const lines = files.map(from => `import type { ${types[from].sort().join(', ')} } from '${from}'\n`)
  return lines.join('')
}

/** One member of an interface, with its TSDoc. */
function member([name, option]) {
  const { takes, byDefault, more, required } = option
  const choices = takes.type === 'choice' ? Object.entries(takes.of) : []
  const paragraphs = more?.split('\n\n') ?? []
  const start = choices.length > 0 ? ':' : ['.', ...paragraphs.splice(0, 1)].join(' ')
  const blocks = [
    wrapped(capital(sentence(option)) + start),
    choices.flatMap(choiceLines),
    ...paragraphs.map(wrapped),
    byDefault === undefined ? [] : wrapped(`@defaultValue ${defaultOf(takes, byDefault)}`),
  ].filter(lines => lines.length > 0)
  const [first, ...others] = blocks.flatMap((lines, i) => (i === 0 ? lines : ['', ...lines]))
  const doc =
    others.length === 0
      ? `  /** ${first} */\n`
      : `  /**\n${[first, ...others].map(line => `   * ${line}`.trimEnd()).join('\n')}\n   */\n`
  return `${doc}  ${name}${required ? '' : '?'}: ${typeOf(takes)}\n`
}

function choiceLines([word, { help, more, kernel }]) {
  const text = `${help}${kernel ? ` (kernel ${kernel})` : ''}${more ? `. ${more.replace(/\.$/, '')}` : ''}`
  return wrapped(`- \`${word}\`: ${text}`).map((line, i) => (i === 0 ? line : `  ${line}`))
}

/** What an option does, its unit, its values, and the kernel that it needs. */
function sentence({ takes, help, kernel }) {
  const needs = kernel
    ? ` (${kernel.for === undefined ? '' : `${kernel.for}: `}kernel ${kernel.version})`
    : ''
  return `${help}${unitInWords(takes)}${valuesInWords(takes, 'api')}${needs}`
}

function typeOf({ type, name, of = {} }) {
  const choice = Object.keys(of).map(word => `'${word}'`)
  return name ?? { count: 'number', size: 'Size', flag: 'boolean', choice: choice.join(' | ') }[type]
}

function defaultOf({ type, of }, value) {
  if (type === 'size' && typeof value === 'number') return sizeInWords(value, 'api')
  return of && value in of ? `'${value}'` : String(value)
}

/** The table on the page. */
function page(text) {
  const [before, after] = text.split(HEADER)
  const rest = after.slice(after.search(/^(?!\|)/m))
  return `${before}${HEADER}${options.map(row).join('')}${rest}`
}

function row([name, option]) {
  const { takes, byDefault = '' } = option
  const choices = takes.type === 'choice' ? Object.entries(takes.of) : []
  const words = choices.map(
    ([word, { help, kernel }]) => `; \`${word}\`: ${help}${kernel ? ` (kernel ${kernel})` : ''}`,
  )
  const code = typeof byDefault === 'boolean' || (takes.of && byDefault in takes.of)
  const shown = code ? `\`${byDefault}\`` : defaultOf(takes, byDefault)
  return `| \`${name}\` | ${shown}${shown && ' '}| ${sentence(option)}${words.join('')} |\n`
}

function capital(text) {
  return text.replace(/^[a-z]/, letter => letter.toUpperCase())
}

/** Lines of a comment that fit; code is not broken. */
function wrapped(text) {
  const lines = []
  for (const [word] of text.matchAll(/(`[^`]*`|\S)+/g)) {
    const longer = `${lines.at(-1)} ${word}`
    if (lines.length > 0 && longer.length <= 114) lines[lines.length - 1] = longer
    else lines.push(word)
  }
  return lines
}
