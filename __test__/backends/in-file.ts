import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { type BackendFactory, defineBackend } from 'ublk-ts'

/** A disk in a file that is read and written by JavaScript. */
const inFile: BackendFactory<{ path: string; size: number }> = defineBackend(
  ({ path, size }: { path: string; size: number }) => {
    const file = openSync(path, 'r+')
    if (fstatSync(file).size < size) ftruncateSync(file, size)
    return {
      size,
      read: (request, into) => void readSync(file, into, 0, request.length, request.offset),
      write: (request, from) => void writeSync(file, from, 0, request.length, request.offset),
      resize: (bytes: number) => ftruncateSync(file, bytes),
      close: () => closeSync(file),
    }
  },
)
export default inFile
