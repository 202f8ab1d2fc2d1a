// A way to an object store that is longer than loopback: a process that passes connections on, has answers arrive later, and
// counts requests. Its parent sends it how many milliseconds that takes, and gets what was counted until then.

import { connect, createServer } from 'node:net'

const [listen, target] = process.argv.slice(2).map(Number)
const REQUEST = /^(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP\/1\.1\r\n/
let delay = 0
let counted = fresh()

function fresh() {
  return { GET: 0, PUT: 0, HEAD: 0, POST: 0, DELETE: 0, LIST: 0, up: 0, down: 0 }
}

createServer(client => {
  const server = connect(target, '127.0.0.1')
  client.setNoDelay(true)
  server.setNoDelay(true)
  client.on('data', data => {
    const [, method, path] = REQUEST.exec(data.subarray(0, 2000).toString('latin1')) ?? []
    if (method) counted[method === 'GET' && path.includes('list-type=2') ? 'LIST' : method]++
    counted.up += data.length
    if (!server.write(data)) {
      client.pause()
      server.once('drain', () => client.resume())
    }
  })
  server.on('data', data => {
    counted.down += data.length
    if (delay === 0) client.write(data)
    else setTimeout(() => client.write(data), delay)
  })
  for (const [one, other] of [
    [client, server],
    [server, client],
  ]) {
    one.on('error', () => {})
    one.on('close', () => setTimeout(() => other.destroy(), delay))
  }
}).listen(listen, '127.0.0.1', () => process.send({ ready: true }))

process.on('message', ms => {
  const told = counted
  counted = fresh()
  delay = ms
  process.send(told)
})
process.on('disconnect', () => process.exit())
