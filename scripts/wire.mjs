#!/usr/bin/env node
/**
 * Writes ts/wire.ts from the constants of crates/ublk-node/src/wire.rs. With --check it only says whether that is as it
 * has to be.
 */
import { readFileSync, writeFileSync } from 'node:fs'

const path = name => new URL(`../${name}`, import.meta.url)
const [from, to] = ['crates/ublk-node/src/wire.rs', 'ts/wire.ts']

const constants = readFileSync(path(from), 'utf8').matchAll(
  /^((?:\/\/\/ .*\n)+)pub const (\w+): \w+ = (-?\d+);$/gm,
)
const declared = Array.from(constants, ([, comment, name, value]) => {
  const text = comment
    .replaceAll(/^\/\/\/ /gm, '')
    .trim()
    .replaceAll('\n', ' ')
  return `/** ${text} */\nexport const ${name} = ${value}\n`
})
const wanted = `// Written by scripts/wire.mjs from ${from}: change that, and run the script.\n\n${declared.join('\n')}`

if (!process.argv.includes('--check')) {
  writeFileSync(path(to), wanted)
} else if (readFileSync(path(to), 'utf8') !== wanted) {
  process.stderr.write(`${to} does not match ${from}: run scripts/wire.mjs\n`)
  process.exitCode = 1
}
