import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** The programs that a document shows, by their names, such as `first.mjs`. */
export function programsOf(document: string): Map<string, string> {
  const blocks = readFileSync(`${root}${document}`, 'utf8').matchAll(/^```js\n(\/\/ (\S+\.mjs)\n.*?)^```$/gms)
  return new Map(Array.from(blocks, ([, code = '', name = '']) => [name, code]))
}

/** Writes a document's programs to files, and gives their paths, in order. */
export function writePrograms(document: string): string[] {
  const dir = `${root}dist-test/programs`
  mkdirSync(dir, { recursive: true })
  return Array.from(programsOf(document), ([name, code]) => {
    writeFileSync(`${dir}/${name}`, code)
    return `${dir}/${name}`
  })
}
