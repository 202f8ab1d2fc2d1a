#!/usr/bin/env node
// usage: scripts/dashboard.mjs DIST
//
// Makes DIST/dashboard/page.html: the page of `ublk-ts dashboard` in one file, with its script, its style and the chart library
// uPlot, whose licence is in a comment. It loads nothing.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'

const [dist] = process.argv.slice(2)
if (dist === undefined) {
  process.stderr.write('usage: scripts/dashboard.mjs DIST\n')
  process.exit(2)
}
const root = join(import.meta.dirname, '..')
const read = path => readFileSync(join(root, path), 'utf8')
const page = 'ts/dashboard/page'

const { outputFiles } = await build({
  absWorkingDir: root,
  entryPoints: { script: `${page}/main.ts` },
  bundle: true,
  minify: true,
  format: 'iife',
  target: ['chrome111', 'firefox115', 'safari16.4'],
  charset: 'utf8',
  legalComments: 'none',
  tsconfig: `${page}/tsconfig.json`,
  write: false,
})
const { outputFiles: styles } = await build({
  absWorkingDir: root,
  stdin: {
    contents: read('node_modules/uplot/dist/uPlot.min.css') + read(`${page}/style.css`),
    loader: 'css',
  },
  minify: true,
  charset: 'utf8',
  write: false,
})
const { version } = JSON.parse(read('node_modules/uplot/package.json'))
const notice = `uPlot ${version}, https://github.com/leeoniya/uPlot\n\n${read('node_modules/uplot/LICENSE').trim()}`
// What ends a comment or a script early is not in them.
const script = outputFiles[0].text.trim().replaceAll('</script', '<\\/script')
const style = styles[0].text.trim()
const html = read(`${page}/page.html`)
  .replace('<html', () => `<!--\nThis page has parts of:\n\n${notice.replaceAll('--', '-')}\n-->\n<html`)
  .replace('<style></style>', () => `<style>${style}</style>`)
  .replace('<script></script>', () => `<script>${script}</script>`)
writeFileSync(join(dist, 'dashboard/page.html'), html)
