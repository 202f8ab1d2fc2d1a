import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import test from 'ava'

// A promise is worth as much as its test: each that docs/guarantees.md names is there.

const docs = new URL('../../docs/', import.meta.url)
const text = readFileSync(new URL('guarantees.md', docs), 'utf8')
const promises = text.split('\n').filter(line => /^\| [A-Z`]/.test(line))

for (const line of promises) {
  const [, promise = '', held = ''] = line.split(/(?<!\\)\|/)
  test(`has its test: ${promise.trim()}`, t => {
    const files = [...held.matchAll(/\[[^\]]+\]\(([^)]+)\) ([^;]+)/g)]
    t.true(files.length > 0)
    for (const [, path = '', names = ''] of files) {
      const source = readFileSync(fileURLToPath(new URL(path, docs)), 'utf8')
      const titles = [...names.matchAll(/“([^”]+)”|`([^`]+)`/g)]
      t.true(titles.length > 0, path)
      for (const [, title, name] of titles) {
        t.true(source.includes(title ?? `fn ${name}()`), `${path} has no test ${title ?? name}`)
      }
    }
  })
}

test('promises are found', t => t.true(promises.length > 25))
