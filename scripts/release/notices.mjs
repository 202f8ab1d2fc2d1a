#!/usr/bin/env node
// usage: scripts/release/notices.mjs [FEATURE]
//
// Prints the licence texts of the crates that are linked into the native part, with a feature of it, for its package.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const [feature] = process.argv.slice(2)
process.chdir(join(import.meta.dirname, '../..'))
const run = (...command) =>
  execFileSync('cargo', command, {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
const crates = JSON.parse(run('metadata', '--format-version', '1', '--locked')).packages.filter(p => p.source)

const edges = ['-e', 'normal,no-proc-macro', '--prefix', 'none', '--locked']
const linked = new Set(
  run('tree', '-p', 'ublk-node', ...(feature ? ['--features', feature] : []), ...edges, '--format', '{p}')
    .split('\n')
    .map(line => line.split(' (')[0]),
)
for (const { name, version, license, repository, manifest_path } of crates) {
  if (!linked.has(`${name} v${version}`)) continue
  const folder = dirname(manifest_path)
  // Some have a directory of them.
  const all = readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => /^(licen[cs]e|copying|notice)/i.test(name))
    .flatMap(entry =>
      entry.isDirectory()
        ? readdirSync(join(folder, entry.name)).map(name => join(entry.name, name))
        : entry.name,
    )
    .sort()
  // Where there is a choice, MIT: short, and one text less.
  const mit = /\bMIT\b/.test(license) && !/\bAND\b/.test(license) ? all.filter(file => /mit/i.test(file)) : []
  const files = mit.length > 0 ? mit : all
  const texts = files.map(file => readFileSync(join(folder, file), 'utf8').trim())
  if (texts.length === 0) texts.push('The crate comes without a licence text.')
  process.stdout.write(
    `${[`${name} ${version} (${license}) ${repository ?? ''}`, ...texts].join('\n\n')}\n\n\n`,
  )
}
