import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { bootId } from '../../dist/remote/identity.js'
import { readPrivate, replaceFile } from '../../dist/remote/private-file.js'
import { type DeviceRecord, judge } from '../../dist/remote/record-file.js'
import { Chance } from '../soak/chance.js'
import { spoiled } from '../support/spoiled.js'

const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-private-'))
test.after.always(() => rmSync(dir, { recursive: true }))
const root = process.getuid?.() === 0

/** The path of an entry that `make` creates. */
function made(name: string, make: (path: string) => void): string {
  const path = join(dir, name)
  make(path)
  return path
}

/** The text of a private file at a path. */
const file =
  (text: string) =>
  (path: string): void =>
    writeFileSync(path, text, { mode: 0o600 })

test('a private file is read, and one that is missing is none', t => {
  t.is(readPrivate(made('plain', file('text'))), 'text')
  t.is(readPrivate(join(dir, 'missing')), undefined)
})

const UNFIT: [string, (path: string) => void, RegExp][] = [
  ['a link', path => symlinkSync(made('target', file('secret')), path), /^it is a symbolic link$/],
  ['a pipe', path => execFileSync('mkfifo', [path]), /^it is no regular file$/],
  ['a directory', path => mkdirSync(path), /^it is no regular file$/],
  [
    'a file of 3 GB',
    path => {
      file('')(path)
      truncateSync(path, 3e9)
    },
    /^it has more than 1048576 bytes$/,
  ],
  [
    'a file that others may write to',
    path => {
      file('')(path)
      chmodSync(path, 0o622)
    },
    /^others may write to it$/,
  ],
  ...(root
    ? ([
        [
          "another user's file",
          path => {
            file('')(path)
            chownSync(path, 65534, 65534)
          },
          /^it belongs to user 65534$/,
        ],
      ] as [string, (path: string) => void, RegExp][])
    : []),
]

for (const [what, make, why] of UNFIT) {
  test(`instead of a private file, ${what} is refused at once`, t => {
    t.throws(() => readPrivate(made(what, make)), { message: why })
  })
}

test('a private file is replaced whole, whatever the umask, and keeps room for the next', t => {
  const before = process.umask(0)
  const path = join(dir, 'replaced')
  try {
    for (const text of ['one', 'x'.repeat(10_000), 'two']) {
      replaceFile(path, text)
      t.is(readFileSync(path, 'utf8'), text)
      t.is(statSync(path).mode & 0o777, 0o600)
      t.is(statSync(`${path}.spare`).mode & 0o777, 0o600)
      t.true(statSync(`${path}.spare`).size > text.length)
    }
  } finally {
    process.umask(before)
  }
  t.deepEqual(
    readdirSync(dir).filter(name => name.startsWith('replaced')),
    ['replaced', 'replaced.spare'],
  )
})

test('what is too long to be read again is not written', t => {
  const path = join(dir, 'long')
  replaceFile(path, 'short')
  t.throws(() => replaceFile(path, 'x'.repeat(2 ** 20 + 1)), { message: /more than 1048576 bytes/ })
  t.is(readFileSync(path, 'utf8'), 'short')
})

test('whatever is in a record, it is judged, and nothing else happens', t => {
  const RECORDS = Number(process.env['UBLK_TS_FUZZ'] ?? 10_000)
  const record: DeviceRecord = {
    version: 1,
    package: '0.1.0',
    boot: bootId(),
    id: 3,
    identity: '4711',
    server: { pid: 1, started: 1 },
    socket: '4712',
    created: '2026-01-01T00:00:00.000Z',
    choice: { transport: 'per-io', transportBecause: 'x', copy: 'copy', copyBecause: 'y' },
    log: '/run/ublk-ts/3.log',
    scratch: ['/dev/shm/x'],
    notes: { detached: true },
    options: { backend: { kind: 'memory', size: 1048576 } },
  }
  const text = JSON.stringify(record, undefined, 2)
  const chance = new Chance(12)
  const states = new Map<string, number>()
  for (let turn = 0; turn < RECORDS; turn++) {
    const found = judge(spoiled(text, chance).toString('utf8'), 3)
    states.set(found.state, (states.get(found.state) ?? 0) + 1)
  }
  t.log(Object.fromEntries(states))
  t.true((states.get('corrupt') ?? 0) > RECORDS / 3)
  t.true((states.get('other-device') ?? 0) > 0)
  t.is(Object.keys(Object.prototype).length, 0)
})
