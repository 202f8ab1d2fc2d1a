#!/usr/bin/env node
// usage: scripts/licences.mjs [--notices]
//
// Fails unless every dependency, of Cargo.lock and package-lock.json, has a licence we may ship (or, for npm packages
// that only build or test, use) and comes from its public registry. Needs no network beyond what cargo fetches.
//
//   --notices  instead prints the licence texts of the crates that are linked into the native part
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const shipped = ['MIT', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', 'Unicode-3.0', 'Zlib']
// Permissive as well, but asking for attribution in forms that our packages do not give.
const tools = [...shipped, '0BSD', 'BlueOak-1.0.0', 'PSF-2.0']

process.chdir(join(import.meta.dirname, '..'))
const run = (...command) =>
  execFileSync('cargo', command, {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
const crates = JSON.parse(run('metadata', '--format-version', '1', '--locked')).packages.filter(p => p.source)

/** Whether an SPDX expression can be met with licences of the list; AND binds tighter than OR. */
function allowed(expression, list) {
  const tokens = expression.replaceAll('/', ' OR ').match(/[()]|[^\s()]+/g) ?? []
  const next = word => tokens[0]?.toUpperCase() === word && tokens.shift()
  const some = () => {
    let met = every()
    while (next('OR')) met = every() || met
    return met
  }
  const every = () => {
    let met = one()
    while (next('AND')) met = one() && met
    return met
  }
  const one = () => {
    if (next('(')) {
      const met = some()
      return Boolean(next(')')) && met
    }
    const name = tokens.shift()
    return next('WITH') ? list.includes(`${name} WITH ${tokens.shift()}`) : list.includes(name)
  }
  const met = some()
  return met && tokens.length === 0
}

function check() {
  const wrong = []
  for (const { name, version, license, source } of crates) {
    if (!allowed(license ?? '', shipped)) wrong.push(`crate ${name} ${version}: licence "${license}"`)
    if (source !== 'registry+https://github.com/rust-lang/crates.io-index')
      wrong.push(`crate ${name} ${version}: from ${source}`)
  }
  const locked = Object.entries(JSON.parse(readFileSync('package-lock.json', 'utf8')).packages).slice(1)
  for (const [path, { license, dev, resolved, integrity }] of locked) {
    if (!allowed(license ?? '', dev ? tools : shipped)) wrong.push(`${path}: licence "${license}"`)
    if (!integrity || !(resolved ?? 'https://registry.npmjs.org/').startsWith('https://registry.npmjs.org/'))
      wrong.push(`${path}: from ${resolved ?? 'nowhere known'}`)
  }
  if (wrong.length > 0) throw wrong.join('\n')
  process.stdout.write(`licences: ${crates.length} crates and ${locked.length} npm packages are fine\n`)
}

function notices() {
  const edges = ['-e', 'normal,no-proc-macro', '--prefix', 'none', '--locked']
  const linked = new Set(
    run('tree', '-p', 'ublk-node', ...edges, '--format', '{p}')
      .split('\n')
      .map(line => line.split(' (')[0]),
  )
  for (const { name, version, license, repository, manifest_path } of crates) {
    if (!linked.has(`${name} v${version}`)) continue
    const folder = dirname(manifest_path)
    const all = readdirSync(folder)
      .filter(file => /^(licen[cs]e|copying|notice)/i.test(file))
      .sort()
    // Where there is a choice, MIT: short, and one text less.
    const mit = all.filter(file => /mit/i.test(file))
    const files = mit.length > 0 && allowed(license, ['MIT']) ? mit : all
    const texts = files.map(file => readFileSync(join(folder, file), 'utf8').trim())
    if (texts.length === 0) texts.push('The crate comes without a licence text.')
    process.stdout.write(
      `${[`${name} ${version} (${license}) ${repository ?? ''}`, ...texts].join('\n\n')}\n\n\n`,
    )
  }
}

try {
  if (process.argv[2] === '--notices') notices()
  else check()
} catch (error) {
  process.stderr.write(`${error}\n`)
  process.exitCode = 1
}
