#!/usr/bin/env node
// usage: scripts/dashboard.mjs DIST
//
// Makes DIST/dashboard/page.html: the page of `ublk-ts dashboard` in one file, with its script, its style and the chart library
// uPlot, whose licence is in a comment. It loads nothing.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { rolldown } from 'rolldown'

const [dist] = process.argv.slice(2)
if (dist === undefined) {
  process.stderr.write('usage: scripts/dashboard.mjs DIST\n')
  process.exit(2)
}
const root = join(import.meta.dirname, '..')
const read = path => readFileSync(join(root, path), 'utf8')
const page = 'ts/dashboard/page'

const bundle = await rolldown({
  input: { script: `${page}/main.ts` },
  cwd: root,
  platform: 'browser',
  tsconfig: join(root, page, 'tsconfig.json'),
  transform: { target: ['chrome111', 'firefox115', 'safari16.4'] },
  onLog: (_, { message }) => {
    throw new Error(message)
  },
})
const { output } = await bundle.generate({ format: 'iife', minify: true, comments: false })
const [{ code }, ...others] = output
if (others.length > 0) throw new Error(`the page is one file, without ${others[0].fileName}`)
const { version } = JSON.parse(read('node_modules/uplot/package.json'))
const notice = `uPlot ${version}, https://github.com/leeoniya/uPlot\n\n${read('node_modules/uplot/LICENSE').trim()}`
// What ends a comment or a script early is not in them.
const script = code.trim().replaceAll('</script', '<\\/script')
const style = `${read('node_modules/uplot/dist/uPlot.min.css')}${read(`${page}/style.css`)}`
  .replaceAll(/\s+/g, ' ')
  .trim()
const html = read(`${page}/page.html`)
  .replace('<html', () => `<!--\nThis page has parts of:\n\n${notice.replaceAll('--', '-')}\n-->\n<html`)
  .replace('<style></style>', () => `<style>${style}</style>`)
  .replace('<script></script>', () => `<script>${script}</script>`)
writeFileSync(join(dist, 'dashboard/page.html'), html)
