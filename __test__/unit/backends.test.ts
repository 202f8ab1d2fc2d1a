import test from 'ava'
import { checkFiles } from '../../binding/index.js'
import { KINDS, kindOf } from '../../dist/backends/list.js'
import { memory } from '../../dist/backends/memory.js'
import { checkStack } from '../../dist/backends/stack.js'
import { worker } from '../../dist/backends/worker.js'

test('the native part refuses what it does not know, in one line', async t => {
  const refused = async (backend: {
    kind: string
    [option: string]: unknown
  }): Promise<string | undefined> => {
    return (await t.throwsAsync(checkFiles(backend, [])))?.message
  }
  t.regex(
    (await refused({ kind: 'null', size: 4096, colour: 'red' })) ?? '',
    /^the null backend is wrong: unknown field `colour`[^\n]*$/,
  )
  t.regex((await refused({ kind: 'null' })) ?? '', /missing field `size`/)
  t.regex((await refused({ kind: 'null', size: 1.5 })) ?? '', /1\.5 is not a possible whole number/)
  t.regex((await refused({ kind: 'floppy' })) ?? '', /^there is no backend "floppy"$/)
  await t.notThrowsAsync(checkFiles({ kind: 'null', size: 2 ** 62 }, []))
})

test('a backend written by hand is checked as one that its function made', t => {
  t.deepEqual(checkStack({ kind: 'memory', size: '1M' }), memory('1M'))
  for (const [backend, message] of [
    [{ kind: 'memory', size: '1M', colour: 'red' }, /memory\(\) has no option 'colour'/],
    [{ kind: 'null', size: '1M', colour: 'red' }, /nullDisk\(\) has no option 'colour'/],
    [{ kind: 'file', path: 'a', colour: 'red' }, /file\(\) has no option 'colour'/],
    [{ kind: 'floppy' }, /there is no such backend/],
    [undefined, /there is no such backend/],
  ] as const) {
    t.throws(() => checkStack(backend), { message })
  }
})

test('kinds have different names, and an object with methods has none', t => {
  t.is(new Set(KINDS.map(kind => kind.name)).size, KINDS.length)
  t.is(kindOf(worker('file:///disk.js'))?.native, false)
  t.is(kindOf({ size: 512, read: () => {} }), undefined)
  t.is(kindOf(null), undefined)
})
