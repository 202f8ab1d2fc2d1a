import { readFileSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { MAIN, type Result, result, run, sh, shell } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNothingBehind(test)

test.before('files that are no good', async () => {
  await sh(`
    mkdir -p /tmp/bad/directory; cd /tmp/bad
    truncate -s 16M good; truncate -s 100 short; : >empty; truncate -s 1000 odd
    truncate -s 16M secret; chmod 600 secret`)
})

test.after.always(() => sh('rm -rf /tmp/bad'))

/** One line on stderr, nothing on stdout. */
function refused(t: import('ava').ExecutionContext, outcome: Result, status: number, message: RegExp): void {
  t.is(outcome.status, status, outcome.stderr)
  t.is(outcome.stdout, '')
  t.regex(outcome.stderr, /^ublk-ts: [^\n]+\n$/)
  t.regex(outcome.stderr, message)
}

// Wrong whatever the machine: the rest of these is in the unit tests.
const wrong: [string, RegExp][] = [
  ['create --mem 0', /size 0/],
  ['create --mem 1000', /not a multiple of the block size 512/],
  ['create --mem 512 --block-size 4096', /not a multiple of the block size 4096/],
  ['create --mem 12Q', /'12Q' is not understood/],
  ['create --mem 8E', /too large/],
  ['create --mem 16M --queues 0', /queues must be a whole number from 1 to 4096, not 0/],
  ['create --mem 16M --queues 5000', /not 5000/],
  ['create --mem 16M --depth 0', /depth must be a whole number from 1 to 4096, not 0/],
  ['create --mem 16M --depth 5000', /not 5000/],
  ['create --mem 16M --block-size 1000', /block size must be 512, 1024, 2048 or 4096, not 1000/],
  ['create --mem 16M --max-io 64M', /max io/],
  ['create --mem 16M --id 9999999', /id must be/],
  ['create --mem 16M --discard-granularity 100', /discard granularity/],
  ['create --mem 16M --bogus', /unknown option '--bogus'/],
  ['create --mem 16M --null 16M', /more than one backend/],
  ['create --mem 16M --copy twice', /--copy .*'twice' is invalid.*auto, copy, user, zero/],
  ['create --mem 16M --transport air', /--transport .*'air' is invalid.*auto, per-io, batch/],
]
for (const [line, message] of wrong) {
  test(`\`${line}\` is refused as wrong`, async t => {
    refused(t, await run(...line.split(' ')), 2, message)
  })
}

const failing: [string, RegExp][] = [
  ['create --file /tmp/bad/missing', /\/tmp\/bad\/missing/],
  ['create --file /tmp/bad/directory', /\/tmp\/bad\/directory/],
  ['create --file /dev/null', /\/dev\/null/],
  [
    'create --mem 16M --copy zero',
    /: copy zero is not possible: this disk's backend cannot; copy or user is /,
  ],
  [
    'create --file /tmp/bad/good --copy user',
    /: copy user is not possible: .* cannot; zero or copy is possible$/m,
  ],
  ['show 77', /77/],
  ['stop 77', /77/],
  ['delete /dev/ublkb77', /77/],
]
for (const [line, message] of failing) {
  test(`\`${line}\` fails`, async t => {
    refused(t, await run(...line.split(' ')), 1, message)
  })
}

for (const [name, size] of [
  ['short', 100],
  ['empty', 0],
  ['odd', 1000],
] as const) {
  test(`a file of ${size} bytes is no disk`, async t => {
    const outcome = await run('create', '--file', `/tmp/bad/${name}`)
    t.true(outcome.status === 1 || outcome.status === 2)
    refused(t, outcome, outcome.status ?? 0, /size|block/)
  })
}

test('an id that is taken is refused', async t => {
  await Server.with('--mem 16M', async ({ id }) => {
    refused(t, await run('create', '--mem', '16M', '--id', `${id}`), 1, new RegExp(`\\b${id}\\b`))
  })
})

/** Runs the command line in bash, set about with other commands. */
const inShell = (script: string) => result(shell(script, process.execPath, MAIN))

test('a file that may not be read is refused', async t => {
  // Root may read any: this is a root that gave up that right.
  const outcome = await inShell(
    'setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search bash -c \'chown nobody /tmp/bad/secret; exec "$1" "$2" create --file /tmp/bad/secret\' bash "$1" "$2"',
  )
  refused(t, outcome, 1, /\/tmp\/bad\/secret/)
})

test('a user other than root is told so', async t => {
  const as = 'setpriv --reuid=65534 --regid=65534 --clear-groups "$1" "$2"'
  refused(t, await inShell(`${as} create --mem 16M`), 1, /permission/i)
  refused(t, await inShell(`${as} list`), 1, /permission/i)
  const doctor = await inShell(`${as} doctor`)
  t.is(doctor.status, 1)
  t.regex(doctor.stdout, /^FAIL {2}permission .*use sudo/m)
})

test('a machine without the driver is told what is missing', async t => {
  // As such a machine looks: no node of the driver.
  const without = 'unshare --mount bash -c \'mount -t tmpfs none /dev; exec "$@"\' bash "$1" "$2"'
  refused(t, await inShell(`${without} create --mem 16M`), 1, /ublk_drv|ublk-control|driver/)
  refused(t, await inShell(`${without} delete 0`), 1, /ublk_drv|ublk-control|driver/)
  const doctor = await inShell(`${without} doctor`)
  t.is(doctor.status, 1)
  t.regex(doctor.stdout, /^FAIL {2}driver .*\/dev\/ublk-control is missing.*mknod/m)
})

test('a machine where io_uring is turned off is told so', async t => {
  const SETTING = '/proc/sys/kernel/io_uring_disabled'
  const before = readFileSync(SETTING, 'utf8')
  writeFileSync(SETTING, '2')
  try {
    refused(t, await run('create', '--mem', '16M'), 1, /io_uring/)
    const doctor = await run('doctor')
    t.is(doctor.status, 1)
    t.regex(doctor.stdout, /^FAIL {2}io_uring .*io_uring_disabled=0/m)
  } finally {
    writeFileSync(SETTING, before)
  }
})

test('a stdout that cannot be written removes the disk again', async t => {
  const cases = ['>&- </dev/zero', '>/dev/full', '| true; exit $PIPESTATUS']
  for (const redirection of cases) {
    refused(t, await run.shell(`create --mem 16M ${redirection}`), 1, /cannot write to standard output/)
  }
})
