#!/usr/bin/env node
/**
 * Writes TypeScript files with the constants of Rust files. With --check it only says whether they are as they have to be.
 */
import { readFileSync, writeFileSync } from 'node:fs'

const FILES = [
  ['crates/ublk-node/src/wire.rs', 'ts/wire.ts'],
  ['crates/ublk-core/src/spec/limits.rs', 'ts/limits.ts'],
]

const path = name => new URL(`../${name}`, import.meta.url)

for (const [from, to] of FILES) {
  const wanted = `// Written by scripts/wire.mjs from ${from}: change that, and run the script.\n\n${declarations(from)}`
  if (!process.argv.includes('--check')) {
    writeFileSync(path(to), wanted)
  } else if (readFileSync(path(to), 'utf8') !== wanted) {
    process.stderr.write(`${to} does not match ${from}: run scripts/wire.mjs\n`)
    process.exitCode = 1
  }
}

/** The public constants of a Rust file whose value is a number, or a list of numbers. */
function declarations(file) {
  const constants = readFileSync(path(file), 'utf8').matchAll(
    /^((?:\/\/\/ .*\n)+)pub const (\w+): ([^=]+) = (-?[\d_]+|\[[\d_, ]+\]);$/gm,
  )
  const declared = Array.from(constants, ([, comment, name, rustType, value]) => {
    const text = comment
      .replaceAll(/^\/\/\/ /gm, '')
      .trim()
      .replaceAll('\n', ' ')
    const type = rustType.startsWith('[') ? ': readonly number[]' : ''
    return `/** ${text} */\nexport const ${name}${type} = ${value}\n`
  })
  return declared.join('\n')
}
