import { execFile } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import test from 'ava'
import { controlMethods } from '../../dist/daemon/control-methods.js'
import { ControlSocket, type Methods } from '../../dist/daemon/control-socket.js'
import { hintOf, UblkError } from '../../dist/errors.js'
import { earlier, jsonRpc, readReply } from '../../dist/remote/control-dialects.js'
import { Chance } from '../soak/chance.js'
import { spoiled } from '../support/spoiled.js'

const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-control-'))
chmodSync(dir, 0o755)
test.after.always(() => rmSync(dir, { recursive: true }))

/** The sockets below the directory that other users can reach: they may enter the directory and write to the socket. */
function openSockets(): string[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .map(name => join(dir, name))
    .filter(path => statSync(path).isSocket())
    .filter(path => (statSync(dirname(path)).mode & 0o077) !== 0 && (statSync(path).mode & 0o077) !== 0)
}

const sockets = (): string[] => readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort()

test.serial('a control socket is private from its first moment on, whatever the umask', async t => {
  const before = process.umask(0)
  try {
    const path = join(dir, '1.sock')
    const listening = ControlSocket.listen(path, {}) // Node has bound it when this returns.
    t.true(sockets().length > 0)
    t.deepEqual(openSockets(), [])
    const socket = await listening
    t.is(statSync(path).mode & 0o777, 0o600)
    t.deepEqual(sockets(), ['1.sock'])
    socket.close()
    t.deepEqual(sockets(), [])
    process.umask(0o777)
    const other = await ControlSocket.listen(path, {})
    t.is(statSync(path).mode & 0o777, 0o600)
    other.close()
  } finally {
    process.umask(before)
  }
})

const asRoot = process.getuid?.() === 0 ? test.serial : test.serial.skip

asRoot('only its own user and root are answered, even if the socket is open to all', async t => {
  const path = join(dir, '2.sock')
  const socket = await ControlSocket.listen(path, { ping: () => null })
  chmodSync(path, 0o666)
  const client = `
    const socket = require('node:net').createConnection(process.argv[1])
    socket.on('data', text => { process.stdout.write(text); socket.end() })
    socket.write('{"id":1,"method":"ping","params":{}}\\n')`
  const asked = async (uid: number): Promise<string> => {
    const { spawn } = await import('node:child_process')
    const child = spawn(process.execPath, ['-e', client, path], { uid, gid: uid, cwd: '/' })
    let text = ''
    for await (const chunk of child.stdout) text += chunk
    return text
  }
  t.is(await asked(0), '{"id":1,"result":null}\n')
  t.like(JSON.parse(await asked(65534)), {
    jsonrpc: '2.0',
    id: null,
    error: {
      code: -32002,
      message: 'the server answers its own user and root',
      data: { kind: 'no-permission', hint: 'ask as the user who runs the server, or as root' },
    },
  })
  socket.close()
})

/** Input for a server, and the minimum number of answers to it. */
async function send(path: string, chunks: readonly Buffer[]): Promise<string> {
  return await new Promise((resolve, reject) => {
    let answer = ''
    const socket = createConnection(path)
    socket.setEncoding('utf8').on('data', text => {
      answer += text
    })
    socket.on('error', error => ((error as NodeJS.ErrnoException).code === 'EPIPE' ? {} : reject(error)))
    socket.on('close', () => resolve(answer))
    for (const chunk of chunks) socket.write(chunk)
    socket.end()
  })
}

test.serial('whatever lines it is sent, a server answers, and goes on', async t => {
  const LINES = Number(process.env['UBLK_TS_FUZZ'] ?? 20_000)
  const chance = new Chance(11)
  let calls = 0
  const methods: Methods = {
    ping: () => null,
    echo: params => {
      calls++
      return params
    },
    fail: () => {
      throw Object.assign(Object.create(null), { message: null })
    },
  }
  const path = join(dir, '3.sock')
  const socket = await ControlSocket.listen(path, methods)
  const valid = [
    '{"id":1,"method":"echo","params":{"a":[1,2,{"b":null}],"c":"d"}}',
    '{"id":2,"method":"fail","params":{}}',
    '{"id":3,"method":"__proto__","params":{"__proto__":{"x":1}}}',
    '{"id":4,"method":"toString","params":[]}',
    '{"jsonrpc":"2.0","id":"5","method":"echo","params":{"a":1}}',
    '[{"jsonrpc":"2.0","id":6,"method":"echo"},{"jsonrpc":"2.0","method":"fail"}]',
  ]
  for (let line = 0; line < LINES; ) {
    const text: Buffer[] = []
    for (let more = chance.below(200, 1); more > 0; more--, line++) {
      text.push(spoiled(chance.of(valid), chance), Buffer.from('\n'))
    }
    // Split at any byte.
    const whole = Buffer.concat(text)
    const chunks: Buffer[] = []
    for (let at = 0; at < whole.length; ) {
      const length = chance.below(5000, 1)
      chunks.push(whole.subarray(at, at + length))
      at += length
    }
    const answers = (await send(path, chunks)).split('\n').slice(0, -1)
    for (const answer of answers) {
      const all: object[] = [JSON.parse(answer)].flat()
      t.true(all.length > 0 && all.every(each => 'id' in each)) || t.log(answer)
    }
  }
  t.true(calls > 0)
  t.is(await send(path, [Buffer.from('{"id":7,"method":"ping","params":{}}\n')]), '{"id":7,"result":null}\n')
  t.is(Object.keys(Object.prototype).length, 0)
  socket.close()
})

test.serial('it speaks JSON-RPC 2.0', async t => {
  const path = join(dir, '4.sock')
  let told = 0
  const socket = await ControlSocket.listen(path, {
    add: ({ a, b }) => Number(a) + Number(b),
    tell: () => void told++,
    parts: (_, { tell }) => {
      tell('one')
      return 'two'
    },
    busy: () => {
      throw new UblkError('busy', 'it is in use', { device: 3, hint: 'wait' })
    },
  })
  const asked = async (text: string): Promise<unknown[]> =>
    (await send(path, [Buffer.from(`${text}\n`)]))
      .split('\n')
      .slice(0, -1)
      .map(line => JSON.parse(line))
  const call = (method: string, more: object = {}): string =>
    JSON.stringify({ jsonrpc: '2.0', id: 1, method, ...more })
  const answer = { jsonrpc: '2.0', id: 1 }
  t.deepEqual(await asked(call('add', { params: { a: 1, b: 2 } })), [{ ...answer, result: 3 }])
  t.deepEqual(await asked(call('add', { id: 'x', params: { a: 1, b: 2 } })), [
    { jsonrpc: '2.0', id: 'x', result: 3 },
  ])
  t.deepEqual(await asked(call('parts')), [
    { jsonrpc: '2.0', method: 'part', params: { id: 1, part: 'one' } },
    { ...answer, result: 'two' },
  ])
  t.deepEqual(await asked(call('busy')), [
    {
      ...answer,
      error: { code: -32008, message: 'it is in use', data: { kind: 'busy', hint: 'wait', device: 3 } },
    },
  ])
  const codeOf = async (text: string): Promise<unknown> =>
    ((await asked(text)) as [{ error: { code: number } }])[0]?.error.code
  t.is(await codeOf(call('sub')), -32601)
  t.is(await codeOf(call('add', { params: [1, 2] })), -32602)
  t.is(await codeOf('{"jsonrpc":"2.0","id":1}'), -32600)
  t.is(await codeOf('{"jsonrpc":"1.0","id":1,"method":"add"}'), -32600)
  t.is(await codeOf('[]'), -32600)
  t.is(await codeOf('{"jsonrpc":'), -32700)
  t.deepEqual(await asked('{"jsonrpc":"2.0","method":"tell"}\n{"jsonrpc":"2.0","method":"no"}'), [])
  t.is(told, 1)
  const many = `[${call('add', { params: { a: 1, b: 1 } })},{"jsonrpc":"2.0","method":"tell"},${call('sub', { id: 2 })},5]`
  t.like((await asked(many))[0], [
    { ...answer, result: 2 },
    { id: 2, error: { code: -32601 } },
    { id: null, error: { code: -32600 } },
  ])
  t.deepEqual(await asked('[{"jsonrpc":"2.0","method":"tell"}]'), [])
  socket.close()
})

/** Sends as many requests at a time, and returns how to read the answers. */
function flood(path: string, method: string, count: number) {
  const socket = createConnection(path)
  const requests = Array.from({ length: count }, (_, id) => JSON.stringify({ jsonrpc: '2.0', id, method }))
  socket.write(`${requests.join('\n')}\n`)
  const answers = async (): Promise<number> =>
    await new Promise(resolve => {
      let lines = 0
      socket.on('data', text => {
        for (const byte of text) if (byte === 10) lines++
        if (lines === count) socket.end(() => resolve(lines))
      })
    })
  return { answers }
}

test.serial('what is kept for a client that does not read, or asks much at a time, is bounded', async t => {
  t.timeout(60_000)
  const path = join(dir, '5.sock')
  let [calls, hanging] = [0, 0]
  let release = (): void => {}
  const released = new Promise<void>(resolve => {
    release = resolve
  })
  const socket = await ControlSocket.listen(path, {
    much: () => {
      calls++
      return 'x'.repeat(2 ** 14)
    },
    hang: async () => {
      hanging++
      await released
    },
  })
  const unread = flood(path, 'much', 3000)
  const asking = flood(path, 'hang', 3000)
  while (calls === 0 || hanging === 0) await sleep(10)
  await sleep(300)
  t.true(calls < 1000, `${calls}`)
  t.is(hanging, 256)
  release()
  t.is(await asking.answers(), 3000)
  t.is(await unread.answers(), 3000)
  socket.close()
})

test('a value that is neither true nor false is refused where one is wanted', async t => {
  const forced: unknown[] = []
  const disk = { resize: async (_: unknown, options: unknown) => void forced.push(options) }
  const { resize, reset, commit, shutdown } = controlMethods(disk as never, {} as never, async () => {})
  const caller = { tell: () => true, gone: new AbortController().signal }
  await resize?.({ size: 1 }, caller)
  await resize?.({ size: 1, force: true }, caller)
  t.deepEqual(forced, [{ force: false }, { force: true }])
  for (const wrong of ['true', 'false', 1, null, []]) {
    for (const method of [resize, reset, commit, shutdown]) {
      const error = await t.throwsAsync(async () => await method?.({ size: 1, force: wrong }, caller))
      t.like(error, { kind: 'invalid', message: 'force must be true or false' })
    }
    const error = await t.throwsAsync(async () => await shutdown?.({ wait: wrong }, caller))
    t.like(error, { kind: 'invalid', message: 'wait must be true or false' })
  }
})

test('the client in Python sends JSON where it is given JSON, and text otherwise', async t => {
  const path = join(dir, '6.sock')
  const socket = await ControlSocket.listen(path, { echo: params => params })
  const client = fileURLToPath(new URL('../../examples/control-client.py', import.meta.url))
  const env = { ...process.env, UBLK_TS_RUN_DIR: dir }
  const { stdout } = await promisify(execFile)(
    'python3',
    [client, '6', 'echo', 'size=2G', 'force=true', 'a=b=c'],
    { env },
  )
  t.deepEqual(JSON.parse(stdout), { size: '2G', force: true, a: 'b=c' })
  socket.close()
})

test('an error on the wire has a hint for programs, and all that is known of it', t => {
  const error = new UblkError('busy', 'it is in use', {
    hint: 'wait{force}',
    device: 3,
    errno: 16,
    code: 'EBUSY',
    command: 'DEL_DEV',
  })
  const sent = JSON.parse(JSON.stringify(jsonRpc.error(1, error)))
  const details = { device: 3, errno: 16, code: 'EBUSY', command: 'DEL_DEV' }
  t.deepEqual(sent.error.data, {
    kind: 'busy',
    hint: 'wait (force: true)',
    template: 'wait{force}',
    ...details,
  })
  const { error: read } = readReply(sent) as { error: UblkError }
  t.like(read, { hint: 'wait (force: true)', ...details })
  t.is(hintOf(read), 'wait{force}')
  // Earlier servers sent the template alone.
  const before = {
    jsonrpc: '2.0',
    id: 1,
    error: { code: -32008, message: 'x', data: { kind: 'busy', hint: 'wait{force}' } },
  }
  t.is((readReply(before) as { error: UblkError }).error.hint, 'wait (force: true)')
})

test('a client understands servers of this version and of earlier ones', t => {
  t.deepEqual(readReply({ id: 1, result: 5 }), { id: 1, result: 5 })
  t.deepEqual(readReply({ jsonrpc: '2.0', id: 1, result: null }), { id: 1, result: null })
  t.deepEqual(readReply({ id: 1, part: 5 }), { id: 1, part: 5 })
  t.deepEqual(readReply(jsonRpc.part(1, 5)), { id: 1, part: 5 })
  const error = new UblkError('busy', 'it is in use', { device: 3, hint: 'wait{force}' })
  for (const dialect of [jsonRpc, earlier]) {
    const sent = JSON.parse(JSON.stringify(dialect.error(1, error)))
    const reply = readReply(sent) as { error: UblkError }
    t.like(reply, { id: 1 })
    t.like(reply.error, { kind: 'busy', message: 'it is in use', device: 3, hint: 'wait (force: true)' })
  }
  for (const odd of [null, 5, 'x', {}, [], { method: 'part' }, { id: 'x', result: 1 }])
    t.is(readReply(odd), undefined)
})
