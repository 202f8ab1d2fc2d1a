#!/usr/bin/env node
// usage: scripts/bundle.mjs DIST [--published]
//
// Writes DIST/bin/, the command line in few files with the packages that it needs, made of what the compiler has put into
// DIST: to find and read some 140 modules, one by one, takes longer than most commands. cli/main.cts, which becomes
// DIST/bin/ublk-ts.cjs, loads the others. Writes DIST/THIRD-PARTY.txt, the
// licences of these packages.
//
//   --published  also removes the modules that only the command line has used
import { existsSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { rolldown } from 'rolldown'

const [folder, option] = process.argv.slice(2)
if (folder === undefined || ![undefined, '--published'].includes(option))
  throw new Error('usage: scripts/bundle.mjs DIST [--published]')
const dist = realpathSync(folder)
const bin = join(dist, 'bin')

/** Modules of Node that load many others: they are loaded when a function of them is first called. */
const HEAVY = ['child_process', 'fs/promises']
/** Modules of Node are taken as they are: what an import adds to them is made anew for each module, and takes longer. */
const builtins = {
  name: 'builtins',
  resolveId: (id, from) => {
    if (!isBuiltin(id) || !from?.startsWith('/')) return undefined
    const name = id.replace(/^node:/, '')
    return from.startsWith(dist) || HEAVY.includes(name) ? `\0node:${name}` : `\0whole:${name}`
  },
  load: id => {
    const [, form, name] = /^\0(node|whole):(.*)/.exec(id) ?? []
    if (name === undefined) return undefined
    const module = `process.getBuiltinModule('node:${name}')`
    if (form === 'whole') return `module.exports = ${module}`
    const parts = Object.keys(process.getBuiltinModule(`node:${name}`)).filter(part => part !== 'default')
    if (HEAVY.includes(name))
      return parts
        .map(part => `export const ${part} = (...values) => ${module}.${part}(...values)`)
        .join('\n')
    // Only those remain that are used.
    return [`const whole = ${module}`, ...parts.map(part => `export const ${part} = whole.${part}`)].join(
      '\n',
    )
  },
}

/**
 * The native part stays where it is, and is loaded with what needs it: where that fails, commands start, and explain. Not as
 * `#binding`, for which Node would read package.json with modules that it needs for nothing else here.
 */
const binding = {
  name: 'binding',
  resolveId: id => (id === '#binding' ? '\0binding' : undefined),
  load: id => {
    if (id !== '\0binding') return undefined
    const index = join(dist, '../binding/index.cjs')
    const parts = [...readFileSync(index, 'utf8').matchAll(/^module\.exports\.([a-zA-Z]\w*) =/gm)].map(
      ([, name]) => name,
    )
    return `import native from '${join(dist, 'native/load.cjs')}'
      export const { ${parts.join(', ')} } = native.loadNative(__dirname + '/${relative(bin, index)}')`
  },
}

/** A module of ours finds files of the package from where the compiler has put it. */
const places = {
  name: 'places',
  transform: (code, id) =>
    id.startsWith(dist) && code.includes('import.meta.url')
      ? code.replaceAll(
          'import.meta.url',
          `new URL('${relative(bin, id)}', require('node:url').pathToFileURL(__filename)).href`,
        )
      : undefined,
}

/** What a module needs when it begins, with itself. */
function needs(name, found = new Set()) {
  const file = join(dist, name)
  if (found.has(file)) return found
  found.add(file)
  for (const path of named(file, /^(?:import|export|\}) (?:[^'"]*from )?['"](\.[^'"]+)['"]/gm))
    needs(relative(dist, path), found)
  return found
}

/** The modules that a file names in one of these ways. */
function named(file, ways) {
  return [...readFileSync(file, 'utf8').matchAll(ways)].map(([, name]) => join(dirname(file), name))
}

// To find, read and begin a file takes about as long as 30 KB of text in it: what is used together is in one.
const all = names => new Set(names.flatMap(name => [...needs(`${name}.js`)]))
const first = all([
  'cli/run',
  'cli/list',
  'cli/show',
  'cli/delete',
  'cli/stop',
  'all-devices',
  'daemon/interrupts',
])
const create = all(['cli/create'])
const api = all(['index'])
const server = all(['daemon/start-detached', 'daemon/run-job', 'daemon/registration', 'served-device'])
const group = (name, priority, test) => ({ name, priority, test, includeDependenciesRecursively: false })
const groups = [
  group('first', 4, id => id.startsWith('\0') || id.includes('/commander/') || first.has(id)),
  group('create', 3, id => create.has(id)),
  group('api', 2, id => api.has(id)),
  group('server', 1, id => server.has(id)),
]

rmSync(bin, { recursive: true, force: true })
const bundle = await rolldown({
  input: { start: join(dist, 'cli/start.js') },
  cwd: dirname(dist), // The names of files, which hold a hash, do not depend on where it is.
  platform: 'node',
  plugins: [builtins, binding, places],
  preserveEntrySignatures: false,
  treeshake: { propertyReadSideEffects: false },
  checks: { ineffectiveDynamicImport: false }, // What is imported so may begin later, wherever it is.
  onLog: (_, { message }) => {
    throw new Error(message)
  },
})
const { output } = await bundle.write({
  dir: bin,
  // Node reads these at once, and ES modules one after the other, through threads: that took a third of the time.
  format: 'cjs',
  strictExecutionOrder: true, // A module begins when it is first needed, as in a file of its own.
  codeSplitting: { groups },
  comments: false,
  entryFileNames: '[name].[hash].cjs',
  chunkFileNames: '[name].[hash].cjs',
})
// As main.cts takes them: each a function, so that no other text has to be made of it, and ASCII alone, as other texts take
// twice the room, and twice the time to read.
for (const { fileName, code } of output) {
  const escaped = unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
  const ascii = code.replace(/[^\0-\x7f]/g, escaped)
  writeFileSync(
    join(bin, fileName),
    `(function (exports, require, module, __filename, __dirname) {${ascii}\n})\n`,
  )
}
const entry = output.find(({ isEntry }) => isEntry).fileName
const main = readFileSync(join(dist, 'cli/main.cjs'), 'utf8')
if (main.split('./start.cjs').length !== 2) throw new Error('main.cjs does not name its first part')
writeFileSync(join(bin, 'ublk-ts.cjs'), main.replace('./start.cjs', `./${entry}`), { mode: 0o755 })

const inside = output.flatMap(({ moduleIds }) => moduleIds)
const packages = inside.flatMap(id => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(id)?.[0] ?? [])
const notices = [...new Set(packages)].sort().map(folder => {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  const texts = readdirSync(folder)
    .filter(name => /^(licen[cs]e|copying|notice)/i.test(name))
    .map(name => readFileSync(join(folder, name), 'utf8').trim())
  return `${[`${name} ${version} (${license})`, ...texts].join('\n\n')}\n`
})
writeFileSync(join(dist, 'THIRD-PARTY.txt'), notices.join('\n\n'))

let kept
if (option === '--published') {
  kept = new Set()
  for (const entry of ['index', 'testing/index'])
    for (const ending of ['.js', '.d.ts']) keep(join(dist, entry) + ending)
  // What the program runs in a thread or process of its own is not in it.
  for (const module of inside.filter(id => id.startsWith(dist)))
    for (const path of named(module, /\bnew URL\(\s*['"](\.[^'"\n]+\.js)['"], import\.meta\.url/g)) keep(path)
  for (const name of readdirSync(dist, { recursive: true })) {
    const file = join(dist, name)
    if ((/\.(js|d\.ts)$/.test(name) && !kept.has(file)) || /^cli\/main\./.test(name)) rmSync(file)
  }
}

/** A file, and all that it names: modules, also those that it loads later or runs in another thread or process. */
function keep(file) {
  if (kept.has(file) || !existsSync(file)) return
  kept.add(file)
  for (const path of named(file, /\b(?:from|import|import\(|new URL\()\s*['"](\.[^'"\n]+)['"]/g))
    keep(file.endsWith('.d.ts') ? path.replace(/\.js$/, '.d.ts') : path)
}
