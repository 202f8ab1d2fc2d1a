import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test from 'ava'
import { ControlSocket, type Methods } from '../../dist/daemon/control-socket.js'
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
    id: null,
    error: { kind: 'no-permission', message: 'the server answers its own user and root' },
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
    for (const answer of answers) t.true('id' in JSON.parse(answer)) || t.log(answer)
  }
  t.true(calls > 0)
  t.is(await send(path, [Buffer.from('{"id":7,"method":"ping","params":{}}\n')]), '{"id":7,"result":null}\n')
  t.is(Object.keys(Object.prototype).length, 0)
  socket.close()
})
