import { readFileSync } from 'node:fs'
import test from 'ava'
import { controlMethods } from '../../dist/daemon/control-methods.js'
import { CODES } from '../../dist/remote/control-dialects.js'

const text = readFileSync(new URL('../../docs/control-socket.md', import.meta.url), 'utf8')

test('the document of the control socket has every method, and no other', t => {
  const methods = Object.keys(controlMethods({} as never, {} as never, async () => {}))
  const table = text.split('\n## Methods\n')[1]?.split('\n## ')[0] ?? ''
  const rows = [...table.matchAll(/^\| (`.*?) \|/gm)].map(([, names = '']) => names)
  const documented = rows.flatMap(names => [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name))
  t.deepEqual(documented.toSorted(), methods.toSorted())
})

test('the document of the control socket has the code of every kind of error', t => {
  for (const [kind, code] of Object.entries(CODES)) {
    t.true(text.includes(`| ${code} | \`${kind}\` |`), kind)
  }
})
