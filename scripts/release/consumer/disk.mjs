import { defineBackend } from 'ublk-ts'

export default defineBackend(({ size }) => {
  const bytes = new Uint8Array(size)
  return {
    size,
    read: (request, into) => into.set(bytes.subarray(request.offset, request.offset + request.length)),
    write: (request, from) => bytes.set(from, request.offset),
  }
})
