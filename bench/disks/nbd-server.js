// A disk in memory served over NBD, as a Node program without a native part does it: pipelined requests and simple
// replies over a unix socket. Data goes between the disk's memory and the socket without a copy in between, and the
// replies to all that came together leave together.
// usage: nbd-server.js SOCKET BYTES: prints a line when it listens, and serves until it is killed

import { once } from 'node:events'
import { createServer } from 'node:net'
import { greet } from './nbd-handshake.js'

const [path, bytes] = process.argv.slice(2)
const disk = Buffer.alloc(Number(bytes))

const [REQUEST, REPLY] = [0x25609513, 0x67446698]
const [WRITE, DISCONNECT] = [1, 2] // and 0 is to read
const HEADER = 28
const EINVAL = 22

const server = createServer(async socket => {
  // A client that leaves in the middle of something ends its connection only.
  socket.on('error', () => socket.destroy())
  if (await greet(socket, disk.length)) transmit(socket)
})
server.listen(path)
await once(server, 'listening')
process.stdout.write('listening\n')

function transmit(socket) {
  /** A header that came in pieces. */
  const pieces = Buffer.alloc(HEADER)
  let have = 0
  /** The write whose data is coming: where to, how much is left, and the reply to it. */
  let [to, left, reply] = [0, 0, undefined]

  function request(from, start) {
    const type = from.readUInt16BE(start + 6)
    const offset = from.readUInt32BE(start + 16) * 2 ** 32 + from.readUInt32BE(start + 20)
    const length = from.readUInt32BE(start + 24)
    const valid = type <= WRITE && offset + length <= disk.length
    if (from.readUInt32BE(start) !== REQUEST || type === DISCONNECT || (type === WRITE && !valid)) {
      socket.destroy()
      return
    }
    const answer = Buffer.allocUnsafe(16)
    answer.writeUInt32BE(REPLY, 0)
    answer.writeUInt32BE(valid ? 0 : EINVAL, 4)
    answer.writeUInt32BE(from.readUInt32BE(start + 8), 8)
    answer.writeUInt32BE(from.readUInt32BE(start + 12), 12)
    if (type === WRITE) {
      ;[to, left, reply] = [offset, length, answer]
      return
    }
    socket.write(answer)
    if (valid) socket.write(disk.subarray(offset, offset + length))
  }

  socket.on('data', chunk => {
    socket.cork()
    let at = 0
    while (at < chunk.length && !socket.destroyed) {
      if (left > 0) {
        const count = chunk.copy(disk, to, at, Math.min(at + left, chunk.length))
        at += count
        to += count
        left -= count
        if (left === 0) socket.write(reply)
      } else if (have === 0 && chunk.length - at >= HEADER) {
        request(chunk, at)
        at += HEADER
      } else {
        const count = chunk.copy(pieces, have, at, Math.min(at + HEADER - have, chunk.length))
        at += count
        have = (have + count) % HEADER
        if (have === 0) request(pieces, 0)
      }
    }
    socket.uncork()
  })
  socket.resume()
}
