#!/usr/bin/env node
// usage: scripts/release/bundlers.mjs PROJECT
//
// Bundles a program in PROJECT, which has ublk-ts installed, with each bundler, with ublk-ts as external and inlined, and runs
// the results. External works whole. Inlined, each disk works, or its error says what to tell the
// bundler. Needs no kernel with ublk: the answer that there is no driver is the driver's part.
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const project = process.argv[2]
const where = spawnSync(join(import.meta.dirname, '../tool'), ['--where', 'scripts/tools'], {
  encoding: 'utf8',
})
const tools = createRequire(`${where.stdout.trim()}/x.js`)
const load = name => import(pathToFileURL(tools.resolve(name)).href)

mkdirSync(join(project, 'bundled'), { recursive: true })
const entry = join(project, 'bundled/program.mjs')
writeFileSync(
  entry,
  `import { memory, UblkDevice, worker } from 'ublk-ts'
const told = []
for (const backend of [memory('16M'), worker('data:text/javascript,export default () => ({ size: 2 ** 20, read() {} })')]) {
  try {
    const disk = await UblkDevice.create({ backend })
    await disk.delete()
    told.push('ok')
  } catch (error) {
    told.push(error.kind === 'no-driver' || error.kind === 'no-permission' ? 'ok' : [error.kind, error.message, error.hint].join('|'))
  }
}
console.log(told.join('\\n'))
process.exit(0)
`,
)

/** Each makes `bundled/NAME/program.mjs`. */
const bundlers = {
  async esbuild(external, outfile) {
    const { build } = await load('esbuild')
    const options = {
      entryPoints: [entry],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      logLevel: 'error',
    }
    await build({ ...options, external: external ? ['ublk-ts'] : [] })
  },
  async rolldown(external, file) {
    const { build } = await load('rolldown')
    await build({
      input: entry,
      platform: 'node',
      logLevel: 'silent',
      ...(external && { external: ['ublk-ts'] }),
      output: { file, format: 'esm', codeSplitting: false },
    })
  },
  async vite(external, _, outDir) {
    const { build } = await load('vite')
    await build({
      root: project,
      configFile: false,
      logLevel: 'error',
      ssr: external ? { external: ['ublk-ts'] } : { noExternal: true },
      build: {
        ssr: entry,
        outDir,
        emptyOutDir: false,
        rollupOptions: { output: { entryFileNames: 'program.mjs' } },
      },
    })
  },
  async webpack(external, _, path) {
    const { default: webpack } = await load('webpack')
    const compiler = webpack({
      mode: 'none',
      target: 'node20',
      entry,
      context: project,
      experiments: { outputModule: true },
      externalsType: 'module',
      externals: external ? { 'ublk-ts': 'ublk-ts' } : {},
      output: { path, filename: 'program.mjs', module: true, chunkFormat: 'module' },
    })
    const stats = await new Promise((resolve, reject) =>
      compiler.run((error, done) => (error ? reject(error) : resolve(done))),
    )
    if (stats.hasErrors()) throw new Error(stats.toString({ all: false, errors: true }))
  },
}

let failed = false
for (const [name, bundle] of Object.entries(bundlers)) {
  for (const external of [true, false]) {
    const label = `${name}, ${external ? 'external' : 'inlined'}`
    const folder = join(project, 'bundled', `${name}-${external ? 'external' : 'inlined'}`)
    mkdirSync(folder)
    const file = join(folder, 'program.mjs')
    try {
      await bundle(external, file, folder)
    } catch (error) {
      failed = true
      process.stdout.write(`${label}: cannot be bundled: ${error.message}\n`)
      continue
    }
    const { stdout, stderr } = spawnSync(process.execPath, [file], {
      cwd: folder,
      encoding: 'utf8',
      timeout: 60_000,
    })
    const [native, worker] = stdout.split('\n')
    const tells = said =>
      !external && /\|where a bundler is used, tell it that ublk-ts is external$/.test(said)
    const results = [native, worker].map(said =>
      said === 'ok' ? 'ok' : tells(said) && 'said to need it as external',
    )
    if (results.includes(false)) failed = true
    process.stdout.write(
      results.includes(false)
        ? `${label}: FAILED: ${native}; ${worker}; ${stderr.slice(0, 600)}\n`
        : `${label}: native disks ${results[0]}; Workers ${results[1]}\n`,
    )
  }
}
process.exitCode = failed ? 1 : 0
