import test from 'ava'
import { interrupted } from '../../dist/cli/commit.js'
import { parseAddress } from '../../dist/cli/metrics.js'
import { traceLine } from '../../dist/cli/trace-lines.js'
import { UblkError } from '../../dist/errors.js'
import { flagsOf } from '../../dist/runtime/requests.js'
import { FLAG_FUA, FLAG_META } from '../../dist/wire.js'
import { run } from '../support/program.js'

// What is decided before the native part is touched, so that it can be tried on any machine.
const wrong: [string, RegExp][] = [
  ['', /no command given; see ublk-ts --help/],
  ['crate', /unknown command 'crate' \(Did you mean create\?\)/],
  ['create', /no backend given; give --mem SIZE, --null SIZE, --file PATH, .* or --backend JSON/],
  ['create --mem', /argument missing/],
  ['create --mem 0', /size 0 is too small/],
  ['create --mem -5', /negative/],
  ['create --mem 12Q', /'12Q' is not understood; use bytes or/],
  ['create --mem 8E', /too large; the limit is just below 8 EiB/],
  ['create --null 9999999999999999999999', /too large/],
  ['create --mem 1.5G', /has a fraction/],
  ['create --mem 16M --null 16M', /more than one backend given/],
  ['create --mem 16M --file x', /more than one backend given/],
  [
    'create --mem 16M --direct',
    /--direct is only for --file, --lazy, --image, --rbd, --qemu, --concat, --stripe and --mirror/,
  ],
  ['create --lazy a --track b', /--track is only for --mem, --null, --file, --qcow2, --concat and --stripe/],
  ['create --upper a --mem 16M', /more than one backend given/],
  ['create --upper a --snapshot b', /--snapshot is only for --overlay/],
  ['fork 0', /required option '--overlay <path>' not specified/],
  ['flatten 0 --rate fast', /rate 'fast' is not understood/],
  ['move 0 s4://a', /'s4:\/\/a' is no target; a path, nbd:/],
  ['move 0 a --rate fast', /rate 'fast' is not understood/],
  ['create --file a --bitmap b', /--bitmap is only for --mirror/],
  ['commit vm1.cow', /'vm1.cow' is not a ublk device; name the base/],
  ['commit 0 --rate fast', /rate 'fast' is not understood/],
  ['commit 0 --into a --rate 1M', /--rate is only for a device/],
  ['create --mem 16M --track=', /the path of the change map is empty/],
  ['changed 0', /required option '--since <name>' not specified/],
  ['create --mem 16M --backing a', /--backing is only for --qcow2/],
  ['create --mem 16M --offset 1M', /--offset is only for --file/],
  ['create --file a --chunk 64K', /--chunk is only for --lazy and --stripe/],
  ['create --mem 16M --fetch-timeout 5', /--fetch-timeout is only for --lazy/],
  ['create --lazy a --fetch-timeout soon', /It must be a number of seconds/],
  ['create --lazy a --fetch-timeout 0', /timeout must be a whole number from 1/],
  ['create --stripe a,,b', /the path of the file is empty/],
  ['create --stripe a,b --chunk x', /chunk 'x' is not understood/],
  ['create --backend {', /the backend is not JSON/],
  ['create --backend {"kind":"floppy"}', /there is no such backend/],
  [
    'create --backend {"kind":"slice","disk":{"kind":"null","size":512},"ofset":1}',
    /has no option 'ofset'; did you mean offset/,
  ],
  [
    'create --backend {"kind":"slice","disk":{"kind":"worker","url":"file:///x"}}',
    /a disk written in JavaScript cannot be below a slice/,
  ],
  ['create --file=', /path of the file is empty/],
  ['create --worker=', /path of the module is empty/],
  ['create --worker x.js --worker-options {', /It must be JSON/],
  ['create --mem 16M --worker-options 1', /--worker-options is only for --worker/],
  ['create --mem 16M --request-timeout 1', /--request-timeout is only for --worker/],
  ['create --mem 16M --recovery maybe', /Allowed choices are requeue, reissue, fail/],
  ['create --mem 16M --log-file x', /--log-file is only for --detach/],
  ['create --mem 16M --log-level loud', /Allowed choices are debug, info, warning, error/],
  ['create --mem 16M --timeout 0', /timeout is 0/],
  ['create --mem 16M --queues two', /It must be a whole number/],
  ['create --mem 16M --queues -1', /It must be a whole number/],
  ['create --mem 16M --write-cache maybe', /Allowed choices are on, off/],
  ['create --mem 16M --bogus', /unknown option '--bogus'/],
  ['create --mem 16M --threads many', /Allowed choices are own, shared/],
  ['create --mem 16M --transport fast', /Allowed choices are auto, per-io, batch/],
  ['create --mem 16M --copy none', /Allowed choices are auto, copy, user, zero/],
  ['create --mem 16M --queue 2', /Did you mean --queues/],
  ['create --mem 16M extra', /too many arguments/],
  ['list --output FOO', /no column 'FOO'/],
  ['show', /missing required argument/],
  ['show /dev/sda', /'\/dev\/sda' is not a ublk device/],
  ['stop', /no device is given; name devices, or choose them with --all/],
  ['delete x/y', /'x\/y' is not a ublk device/],
  ['delete 0 --all', /--all goes with no device/],
  ['delete 0 --file a', /--file, --backend and --state are only for --all/],
  ['stop 0 --dry-run', /--dry-run is only for --all/],
  ['list --backend floppy', /Allowed choices are memory, /],
  ['delete 0 --timeout 5', /--timeout is only for --wait/],
  ['delete 0 --wait --timeout soon', /It must be a number of seconds/],
  ['create --mem 16M --auto-restart', /--auto-restart needs --recovery/],
  ['create --mem 16M --or-recover', /--or-recover needs --id/],
  ['recover', /missing required argument/],
  ['recover 0 --detach --foreground', /--foreground and --detach exclude each other/],
  ['upgrade +x', /'\+x' is not a ublk device/],
  ['resize 0', /missing required argument 'size'/],
  ['resize 0 1.5G', /has a fraction/],
  ['serve', /serve is what create --detach starts/],
  ['features extra', /too many arguments/],
  ['stats +x', /'\+x' is not a ublk device/],
  ['stats --output FOO', /no column 'FOO'/],
  ['stats --output OPS/S', /no column 'OPS\/S'/],
  ['stats --count 3', /--count is only for --interval/],
  ['stats --interval 0', /It must be a number of seconds from 0.1/],
  ['stats --interval 1 --count 0', /It must be a whole number from 1/],
  ['stats --interval 1 --openmetrics', /--openmetrics goes with neither/],
  ['top --interval soon', /It must be a number of seconds from 0.1/],
  ['metrics --listen here', /'here' is no address to listen at; give a port, or HOST:PORT/],
  ['metrics --listen 127.0.0.1:70000', /no address to listen at/],
  ['trace', /missing required argument/],
  ['trace 0 1', /too many arguments/],
  ['trace 0 --count -1', /It must be a whole number from 1/],
  [
    'create --mem 16M --detach --trace',
    /--trace is neither for --detach nor for --auto-restart; ublk-ts trace/,
  ],
]
for (const [line, message] of wrong) {
  test(`\`ublk-ts ${line}\` exits with 2 and one line that says why`, async t => {
    const result = await run(...line.split(' ').filter(word => word !== ''))
    t.is(result.status, 2)
    t.is(result.stdout, '')
    t.regex(result.stderr, /^ublk-ts: [^\n]+\n$/)
    t.regex(result.stderr, message)
  })
}

test('the version is that of the package', async t => {
  const result = await run('--version')
  t.deepEqual(result, { status: 0, signal: null, stdout: '0.1.0\n', stderr: '' })
})

test('a full disk under stdout is a failure in one line', async t => {
  const result = await run.shell('--help >/dev/full')
  t.is(result.status, 1)
  t.regex(result.stderr, /^ublk-ts: cannot write to standard output: ENOSPC[^\n]*\n$/)
})

test('a pipe that nobody reads is a failure in one line', async t => {
  const result = await run.shell('--help | true; exit $PIPESTATUS')
  t.is(result.status, 1)
  t.regex(result.stderr, /^ublk-ts: cannot write to standard output: [^\n]*EPIPE[^\n]*\n$/)
})

test('a closed stdout is a failure in one line, unlike one sent to /dev/null', async t => {
  const closed = await run.shell('--version >&- </dev/zero')
  t.is(closed.status, 1)
  t.is(closed.stderr, 'ublk-ts: cannot write to standard output: it is closed\n')
  const away = await run.shell('--version >/dev/null </dev/zero')
  t.is(away.status, 0)
  t.is(away.stderr, '')
})

for (const [text, host, port] of [
  ['9464', '127.0.0.1', 9464],
  ['0.0.0.0:80', '0.0.0.0', 80],
  ['localhost:0', 'localhost', 0],
  ['[::1]:9464', '::1', 9464],
] as const) {
  test(`${text} is an address to listen at`, t => {
    t.deepEqual(parseAddress(text), { host, port })
  })
}

test('a traced request is one line', t => {
  const time = new Date(2024, 0, 2, 3, 4, 5, 6).getTime() + 0.25
  const record = {
    time,
    queue: 1,
    tag: 7,
    op: 'write',
    offset: 4096,
    length: 512,
    done: 0,
    faults: [] as number[],
    latency: 26.4,
  } as const
  t.is(
    traceLine({ ...record, ...flagsOf(FLAG_FUA | FLAG_META), error: 'EIO' }),
    '03:04:05.006250 q1 t7 write 4096+512 fua meta 26.4us EIO',
  )
  t.is(traceLine({ ...record, ...flagsOf(0), error: null }), '03:04:05.006250 q1 t7 write 4096+512 26.4us')
})

test('a commit that is interrupted says what the base is until it is done', t => {
  const error = interrupted(new UblkError('cancelled', 'interrupted'))
  t.true(error instanceof UblkError)
  const { kind, message, hint } = error as UblkError
  t.deepEqual([kind, message], ['cancelled', 'the commit was interrupted'])
  t.regex(hint ?? '', /^commit it again to go on: until then the base may be partly the old one/)
  // One that says it itself, and other failures, stay as they are.
  for (const other of [
    new UblkError('cancelled', 'a', { hint: 'b' }),
    new UblkError('busy', 'a'),
    new Error('a'),
  ]) {
    t.is(interrupted(other), other)
  }
})
