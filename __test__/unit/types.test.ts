import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { checkProject } from '../support/tsc.js'

// In ../types, what is in `right` compiles; in `wrong`, each line below a comment `// error: …` does not, and the
// compiler says so in these words.

const root = fileURLToPath(new URL('../../', import.meta.url))
const types = '__test__/types'

interface Finding {
  /** File and line. */
  at: string
  message: string
}

const expected = readdirSync(`${root}${types}/wrong`).flatMap(file =>
  readFileSync(`${root}${types}/wrong/${file}`, 'utf8')
    .split('\n')
    .flatMap((text, index): Finding[] => {
      const message = /^ *\/\/ error: (.*)$/.exec(text)?.[1]
      return message ? [{ at: `wrong/${file}:${index + 2}`, message }] : []
    }),
)

/** What the compiler has to say; the lines of a message that are indented belong to the one before. */
async function compile(): Promise<Finding[]> {
  return (await checkProject(types, root))
    .split(/\n(?! )/)
    .filter(Boolean)
    .map(text => {
      const [, file, line, message] = /^(.*?)\((\d+),\d+\): error (.*)$/s.exec(text) ?? []
      return { at: `${file?.replace(`${types}/`, '')}:${line}`, message: message ?? text }
    })
}

const found = compile()

test('what must compile does, and of the rest only what is marked does not', async t => {
  t.true(expected.length > 0)
  t.deepEqual(
    (await found).map(({ at }) => at).sort(),
    expected.map(({ at }) => at).sort(),
    JSON.stringify(await found, null, 2),
  )
})

for (const { at, message } of expected) {
  test(`${at}: ${message}`, async t => {
    const said = (await found).find(finding => finding.at === at)?.message
    t.true(said?.includes(message), said)
  })
}
