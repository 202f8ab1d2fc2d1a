import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { failure, S3Server } from '../support/s3-server.js'
import { faultsOf } from '../support/schema.js'

const PROGRAM = fileURLToPath(new URL('../../dist/bin/ublk-ts.cjs', import.meta.url))
const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-store-'))
test.after.always(() => rmSync(dir, { recursive: true, force: true }))

interface Run {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** What `doctor` says of a store; nothing of this process's environment reaches it. */
async function doctor(environment: Record<string, string>, ...words: string[]): Promise<Run> {
  const env = { PATH: process.env['PATH'], HOME: dir, ...environment }
  return await new Promise(resolve =>
    execFile(
      process.execPath,
      [PROGRAM, 'doctor', ...words],
      { env, encoding: 'utf8' },
      (error, stdout, stderr) => resolve({ status: error ? Number(error.code) : 0, stdout, stderr }),
    ),
  )
}

/** The lines of a status, by the check's name. */
function checks(stdout: string, status: string): string[] {
  const lines = stdout.split('\n').filter(line => line.startsWith(status))
  return lines.map(line => line.slice(6).split(' ', 1)[0] ?? '')
}

const FINDINGS = ['create-existing', 'conditional-put', 'read-after-write', 'range', 'list', 'delete']

test('doctor finds a good store fit for disks, in JSON too, and leaves nothing behind', async t => {
  await using server = await S3Server.start()
  server.objects.set('a/volume.json', { body: Buffer.from('{}'), changed: new Date() })
  const { status, stdout, stderr } = await doctor(server.environment, 's3://disks/a')
  t.deepEqual([status, stderr], [0, ''])
  t.deepEqual(checks(stdout, 'FAIL'), [])
  t.deepEqual(checks(stdout, 'warn'), [])
  const ok = checks(stdout, 'ok')
  t.deepEqual(ok.slice(0, 7), ['store', ...FINDINGS])
  t.regex(stdout, /^ok {4}put +of 4 KiB: p50 \d+\.\d ms, p99 \d+\.\d ms, of 64$/m)
  t.notRegex(stdout, /price/)
  t.deepEqual([...server.objects.keys()], ['a/volume.json'])
  // 16 objects at least have been in the list, over several pages.
  t.true(server.requests.filter(({ url }) => url.includes('continuation-token')).length > 0)
  t.true(
    server.requests
      .filter(({ method }) => method === 'PUT')
      .every(({ headers }) => headers['if-none-match'] === '*'),
  )

  const json = await doctor(server.environment, '--json', 's3://disks/b')
  t.is(faultsOf(json.stdout, 'doctor-store'), '')
  t.is((JSON.parse(json.stdout) as { store: { verdict: string } }).store.verdict, 'sound')
})

test('doctor refuses a store whose conditional PUT is not atomic, or is none', async t => {
  await using liar = await S3Server.start({ lies: true })
  const lied = await doctor(liar.environment, 's3://disks/a')
  t.is(lied.status, 1)
  t.deepEqual(checks(lied.stdout, 'FAIL'), ['store', 'conditional-put'])
  t.regex(lied.stdout, /several won, up to \d+: its conditional PUT is not atomic/)
  t.regex(lied.stdout, /remedy: put no disk here/)
  t.regex(lied.stderr, /^ublk-ts: s3:\/\/disks\/a is not fit for disks; see the lines marked FAIL\n$/)

  await using deaf = await S3Server.start({ ignoresConditions: true })
  t.deepEqual(checks((await doctor(deaf.environment, 's3://disks/a')).stdout, 'FAIL'), [
    'store',
    'create-existing',
    'conditional-put',
  ])
})

test('a conflict of conditional PUTs is not taken for an object that exists', async t => {
  const conflict = { status: 409, body: failure('ConditionalRequestConflict', 'Another one is in flight') }
  let puts = 0
  await using server = await S3Server.start({
    instead: ({ method, url }) =>
      method === 'PUT' && url?.includes('race') && puts++ % 3 === 0 ? conflict : undefined,
  })
  const { status, stdout } = await doctor(server.environment, 's3://disks/a')
  t.is(status, 0, stdout)
  t.true(puts > 100)
})

const PLANTED = ['planted-secret-key', 'planted-token', 'planted-key-id']

test('errors say what is wrong in one line, and no secret', async t => {
  const repeats = (code: string, status: number) => ({
    instead: ({ headers }: { headers: Record<string, unknown> }) => ({
      status,
      body: failure(code, `The key planted-secret-key is wrong`, JSON.stringify(headers)),
    }),
  })
  const secrets = { AWS_SESSION_TOKEN: 'planted-token', AWS_ACCESS_KEY_ID: 'planted-key-id' }
  const expectations: [Awaited<ReturnType<typeof S3Server.start>>, string, RegExp][] = [
    [
      await S3Server.start(repeats('SignatureDoesNotMatch', 403)),
      's3://disks/a',
      /403 SignatureDoesNotMatch: The key \[secret\] is wrong/,
    ],
    [await S3Server.start(), 's3://none/a', /404 NoSuchBucket: The specified bucket does not exist/],
    [
      await S3Server.start(),
      's3://planted-key-id:planted-secret-key@disks/a',
      /must not contain credentials/,
    ],
    [await S3Server.start(), 's3://disks/a?token=planted-token', /no part after \? or #/],
  ]
  for (const [server, url, said] of expectations) {
    const { status, stdout, stderr } = await doctor(
      { ...server.environment, ...secrets, UBLK_TS_DEBUG: '1' },
      url,
    )
    t.true(status > 0)
    t.regex(stderr.split('\n', 1)[0] ?? '', said)
    for (const secret of PLANTED) t.false((stdout + stderr).includes(secret), `${url}: ${stderr}`)
    // The secret key never leaves this machine, either.
    t.false(JSON.stringify(server.requests).includes('planted-secret-key'))
    await server[Symbol.asyncDispose]()
  }
  const port = await freePort()
  const gone = await doctor(
    { AWS_ENDPOINT_URL: `http://127.0.0.1:${port}`, ...secrets, AWS_SECRET_ACCESS_KEY: 'x' },
    's3://disks/a',
  )
  t.regex(
    gone.stderr,
    /^ublk-ts: PUT s3:\/\/disks\/a\/\S+: no answer from 127\.0\.0\.1:\d+: Connection refused[^\n]*\n$/,
  )
  const plain = await doctor(
    { AWS_ENDPOINT_URL: 'http://example.com', ...secrets, AWS_SECRET_ACCESS_KEY: 'x' },
    's3://disks/a',
  )
  t.regex(plain.stderr, /^ublk-ts: the endpoint example\.com is http:\/\/.*AWS_ALLOW_HTTP=true allows it\n$/)
})

test('credentials, region and endpoint come from a profile of the files of AWS', async t => {
  await using server = await S3Server.start()
  mkdirSync(join(dir, '.aws'))
  writeFileSync(
    join(dir, '.aws/credentials'),
    '[work]\naws_access_key_id = AKPROFILE\naws_secret_access_key = planted-secret-key\n',
  )
  const config = `[profile work]\nregion = eu-north-1\nendpoint_url = ${server.endpoint}\n`
  writeFileSync(join(dir, '.aws/config'), config)
  const { status, stderr } = await doctor({ AWS_PROFILE: 'work' }, 's3://disks/a')
  t.is(status, 0, stderr)
  t.regex(server.requests[0]?.headers.authorization ?? '', /Credential=AKPROFILE\/\d+\/eu-north-1\/s3\//)
  t.regex((await doctor({ AWS_PROFILE: 'nobody' }, 's3://disks/a')).stderr, /there is no profile "nobody"/)
})

test('a directory is a store, too', async t => {
  const { status, stdout } = await doctor({}, `file://${dir}/store`)
  t.is(status, 0, stdout)
  t.deepEqual(checks(stdout, 'ok').slice(0, 7), ['store', ...FINDINGS])
})

/** A port that nobody listened on a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  return port
}

/** A program that `scripts/setup --stores` builds; without it the test is skipped, which it says. */
function built(t: ExecutionContext, path: string): string | undefined {
  const cache =
    process.env['UBLK_TS_CACHE'] ??
    join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'ublk-ts')
  const program = join(cache, 'stores', path)
  if (existsSync(program)) return program
  t.log(`skipped: there is no ${path}, which scripts/setup --stores builds`)
  t.pass()
  return undefined
}

/** Runs a server in a directory with a bucket until the test ends. */
async function run(t: ExecutionContext, program: string, words: (port: number, dir: string) => string[]) {
  const data = mkdtempSync(join(dir, 'data-'))
  mkdirSync(join(data, 'disks'))
  const port = await freePort()
  const keys = { AWS_ACCESS_KEY_ID: 'testkey00', AWS_SECRET_ACCESS_KEY: 'planted-secret-key' }
  const env = {
    ...process.env,
    ROOT_ACCESS_KEY: keys.AWS_ACCESS_KEY_ID,
    ROOT_SECRET_KEY: keys.AWS_SECRET_ACCESS_KEY,
  }
  const log = join(data, '..', `${port}.log`)
  const child: ChildProcess = spawn(
    'sh',
    ['-c', 'exec "$@" >"$0" 2>&1', log, program, ...words(port, data)],
    { env },
  )
  t.teardown(() => child.kill('SIGKILL'))
  const endpoint = `http://127.0.0.1:${port}`
  const answers = async (): Promise<boolean> =>
    await fetch(endpoint).then(
      () => true,
      () => false,
    )
  for (let tries = 0; !(await answers()); tries++) {
    if (tries > 200) throw new Error(`${program} does not answer: ${readFileSync(log, 'utf8')}`)
    await sleep(50)
  }
  return { AWS_ENDPOINT_URL: endpoint, ...keys }
}

test('versitygw is found fit for disks', async t => {
  const program = built(t, 'versitygw')
  if (program === undefined) return
  const environment = await run(t, program, (port, data) => ['--port', `127.0.0.1:${port}`, 'posix', data])
  const { status, stdout } = await doctor(environment, 's3://disks/a')
  t.is(status, 0, stdout)
  t.regex(
    (await doctor({ ...environment, AWS_SECRET_ACCESS_KEY: 'wrong' }, 's3://disks/a')).stderr,
    /403 SignatureDoesNotMatch/,
  )
})

test('s3s-fs 0.14.1, whose conditional PUT is not atomic, is refused', async t => {
  const program = built(t, 's3s-fs/bin/s3s-fs')
  if (program === undefined) return
  const keys = ['--access-key', 'testkey00', '--secret-key', 'planted-secret-key']
  const environment = await run(t, program, (port, data) => [
    '--host',
    '127.0.0.1',
    '--port',
    `${port}`,
    ...keys,
    data,
  ])
  const { status, stdout } = await doctor(environment, 's3://disks/a')
  t.is(status, 1)
  t.deepEqual(checks(stdout, 'FAIL'), ['store', 'conditional-put'])
})
