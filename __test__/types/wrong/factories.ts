import { type DiskBackend, defineBackend } from 'ublk-ts'

const size = '1M'
const read = (): void => {}

// error: Property 'read' is missing in type '{ size: string; write: () => void; }'
export const deaf = defineBackend(() => ({ size, write: () => {} }))

// error: Type 'number' is not assignable to type 'void | Promise<void>'
export const answers = defineBackend(() => ({ size, read: () => 5 }))

// error: The types returned by 'read(...)' are incompatible
export const later = defineBackend(async () => ({ size, read: () => 5 }))

export const text = defineBackend(() => ({
  size,
  read,
  // error: Types of parameters 'from' and 'from' are incompatible
  write: (request, from: string) => void from.at(request.offset),
}))

// error: Type '"trim"' is not assignable to type '"discard" | "flush" | "write" | "writeZeroes"'
export const trims = defineBackend(() => ({ size, operations: ['write', 'trim'], process: read }))

// A factory that says what it returns gets every name checked.
// error: 'flsuh' does not exist in type 'DiskBackend'. Did you mean to write 'flush'?
export const strict = defineBackend((): DiskBackend => ({ size, read, flsuh: read }))
