// An object store for measurements: versitygw on loopback, with a way to it that adds time and counts requests.

import { execFile, fork, spawn } from 'node:child_process'
import { createHash, createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const execute = promisify(execFile)
const [STORE, WAY] = [7081, 7082]
const [ID, SECRET] = ['benchkey0', 'bench-secret']
export const ENDPOINT = `http://127.0.0.1:${WAY}`
export const BUCKET = 'disks'
/** The environment of those who use it. */
export const KEYS = {
  AWS_ENDPOINT_URL: ENDPOINT,
  AWS_ACCESS_KEY_ID: ID,
  AWS_SECRET_ACCESS_KEY: SECRET,
  AWS_REGION: 'us-east-1',
  AWS_EC2_METADATA_DISABLED: 'true',
}

/** Starts it, with its objects in a directory. */
export async function startStore(program, dir) {
  for (const part of ['meta', `data/${BUCKET}`]) mkdirSync(join(dir, part), { recursive: true })
  const words = ['--port', `127.0.0.1:${STORE}`, 'posix', '--sidecar', join(dir, 'meta')]
  const server = spawn(program, [...words, '--default-etag', 'none', join(dir, 'data')], {
    env: { ...process.env, ROOT_ACCESS_KEY: ID, ROOT_SECRET_KEY: SECRET },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  while (!(await listens(STORE))) await sleep(50)
  const proxy = fork(join(import.meta.dirname, 'store-proxy.js'), [`${WAY}`, `${STORE}`], { execArgv: [] })
  await once(proxy, 'message')
  return {
    /** Has answers take so long, in milliseconds; gives what was counted since the last call. */
    async count(delay) {
      proxy.send(delay)
      return (await once(proxy, 'message'))[0]
    },
    async stop() {
      proxy.disconnect()
      server.kill()
      await once(server, 'exit')
    },
  }
}

async function listens(port) {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

const hash = text => createHash('sha256').update(text).digest('hex')
const hmac = (key, text) => createHmac('sha256', key).update(text).digest()

/** An URL that says who asks: whatever client uses it, it asks for an object and does nothing else. */
export function signed(method, key) {
  const at = new Date().toISOString().replace(/[-:]|\.\d+/g, '')
  const scope = `${at.slice(0, 8)}/us-east-1/s3/aws4_request`
  const query = [
    'X-Amz-Algorithm=AWS4-HMAC-SHA256',
    `X-Amz-Credential=${encodeURIComponent(`${ID}/${scope}`)}`,
    `X-Amz-Date=${at}`,
    'X-Amz-Expires=3600',
    'X-Amz-SignedHeaders=host',
  ].join('&')
  const path = `/${BUCKET}/${key}`
  const request = [method, path, query, `host:127.0.0.1:${WAY}\n`, 'host', 'UNSIGNED-PAYLOAD'].join('\n')
  const text = ['AWS4-HMAC-SHA256', at, scope, hash(request)].join('\n')
  const secret = scope.split('/').reduce((from, part) => hmac(from, part), `AWS4${SECRET}`)
  return `${ENDPOINT}${path}?${query}&X-Amz-Signature=${createHmac('sha256', secret).update(text).digest('hex')}`
}

/** Milliseconds that curl takes for each of some PUTs, one after the other on one connection. */
export async function putTimes(keys, file) {
  const words = keys.flatMap((key, at) => [
    ...(at > 0 ? ['--next'] : []),
    ...['--silent', '--fail', '--header', 'Expect:', '--upload-file', file, '--output', '/dev/null'],
    ...['--write-out', '%{time_total}\\n', signed('PUT', key)],
  ])
  const { stdout } = await execute('curl', words)
  return stdout
    .trim()
    .split('\n')
    .map(seconds => Number(seconds) * 1000)
}
