// The handshake of an NBD server, in the protocol's fixed newstyle.

import { once } from 'node:events'

const [NBDMAGIC, IHAVEOPT, OPTION_REPLY] = [0x4e42444d41474943n, 0x49484156454f5054n, 0x0003e889045565a9n]
const [FIXED_NEWSTYLE, NO_ZEROES] = [1, 2]
const [EXPORT_NAME, ABORT, INFO, GO] = [1, 2, 6, 7]
const [ACK, ABOUT, UNSUPPORTED] = [1, 3, 0x80000001]
/** The disk has flags, and these are all. */
const HAS_FLAGS = 1

/** Agrees with a client on how the disk of `size` bytes is used. Whether it is; else the client has gone. */
export async function greet(socket, size) {
  socket.pause()
  socket.write(pack([8, NBDMAGIC], [8, IHAVEOPT], [2, FIXED_NEWSTYLE | NO_ZEROES]))
  const flags = await take(socket, 4)
  const zeroes = flags && (flags.readUInt32BE() & NO_ZEROES) === 0
  for (;;) {
    const header = await take(socket, 16)
    if (!header || header.readBigUInt64BE() !== IHAVEOPT) break
    const [option, length] = [header.readUInt32BE(8), header.readUInt32BE(12)]
    if (length > 0 && !(await take(socket, length))) break
    const answer = (kind, ...data) => {
      const body = pack(...data)
      socket.write(pack([8, OPTION_REPLY], [4, option], [4, kind], [4, body.length]))
      socket.write(body)
    }
    if (option === EXPORT_NAME) {
      socket.write(pack([8, size], [2, HAS_FLAGS]))
      if (zeroes) socket.write(Buffer.alloc(124))
      return true
    }
    if (option === INFO || option === GO) answer(ABOUT, [2, 0], [8, size], [2, HAS_FLAGS])
    answer([ABORT, INFO, GO].includes(option) ? ACK : UNSUPPORTED)
    if (option === GO) return true
    if (option === ABORT) break
  }
  socket.destroy()
  return false
}

/** The next bytes of a connection; undefined if it ends before. */
async function take(socket, count) {
  for (;;) {
    const bytes = socket.read(count)
    if (bytes?.length === count) return bytes
    if (socket.readableEnded || socket.destroyed) return undefined
    await Promise.race([once(socket, 'readable'), once(socket, 'end')])
  }
}

/** Big-endian numbers, each given with its width in bytes. */
function pack(...fields) {
  const parts = fields.map(([width, value]) => {
    const part = Buffer.alloc(8)
    part.writeBigUInt64BE(BigInt(value))
    return part.subarray(8 - width)
  })
  return Buffer.concat(parts)
}
