import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import test from 'ava'
import { programsOf } from '../support/documents.js'

// What the documents show is compiled: a program and a module as they are, a fragment after what it takes for granted.

const root = fileURLToPath(new URL('../../', import.meta.url))
const FRAGMENT = `
import { type CrashState, file, lazy, overlay, powercut, UblkDevice, worker } from 'ublk-ts'
declare const names: string[]
declare const memory: SharedArrayBuffer
declare function download(offset: number, length: number): Promise<Uint8Array>
`

test("the documents' JavaScript and TypeScript compile", async t => {
  const dir = `${root}dist-test/docs`
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true })
  let blocks = 0
  const documents = [
    'README.md',
    'docs/write-a-disk.md',
    'docs/clones.md',
    'docs/testing.md',
    'docs/power-cuts.md',
    'docs/databases.md',
  ]
  for (const document of documents) {
    const text = readFileSync(root + document, 'utf8')
    for (const [name, code] of programsOf(document)) {
      writeFileSync(`${dir}/${name}`, code)
      blocks++
    }
    for (const [, code = ''] of text.matchAll(/^```[jt]s\n(?!\/\/ \S+\.mjs\n)(.*?)^```$/gms)) {
      const module = /^import .* from 'ublk-ts'$/m.test(code) ? code : `${FRAGMENT}${code}export {}\n`
      writeFileSync(`${dir}/${document.replaceAll(/\W/g, '-')}-${++blocks}.ts`, module)
    }
  }
  t.true(blocks >= 6)
  writeFileSync(
    `${dir}/tsconfig.json`,
    JSON.stringify({
      extends: '../../tsconfig.base.json',
      compilerOptions: {
        noEmit: true,
        allowJs: true,
        checkJs: true,
        composite: false,
        incremental: false,
        isolatedDeclarations: false,
        rootDir: '.',
        noUnusedLocals: false,
        noUnusedParameters: false,
        exactOptionalPropertyTypes: true,
      },
      include: ['*.ts', '*.mjs'],
    }),
  )
  const tsc = promisify(execFile)(`${root}node_modules/.bin/tsc`, ['-p', dir, '--pretty', 'false'], {
    cwd: root,
  })
  t.is(
    await tsc.then(
      ({ stdout }) => stdout,
      (error: { stdout: string }) => error.stdout,
    ),
    '',
  )
})
