/** The smallest useful disk in TypeScript. Several workers can serve it: they share the memory. */
import { defineBackend } from 'ublk-ts'

export default defineBackend(({ memory }: { memory: SharedArrayBuffer }) => {
  const bytes = new Uint8Array(memory)
  return {
    size: bytes.length,
    read: (request, into) => into.set(bytes.subarray(request.offset, request.offset + request.length)),
    write: (request, from) => bytes.set(from, request.offset),
    discard: request => void bytes.fill(0, request.offset, request.offset + request.length),
    writeZeroes: request => void bytes.fill(0, request.offset, request.offset + request.length),
  }
})
