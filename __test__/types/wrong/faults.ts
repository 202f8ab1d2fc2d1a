import { type FaultRule, faults, memory } from 'ublk-ts'

// error: Type '"flush"' is not assignable to type '"read" | "write" | readonly ("read" | "write")[] | undefined'
export const corruptFlush: FaultRule = { op: 'flush', corrupt: true }

// error: Type '"read"' is not assignable to type
export const tornRead: FaultRule = { op: 'read', tear: 512 }

// error: Type '"read"' is not assignable to type
export const lostRead: FaultRule = { op: 'read', lose: true }

// error: Type '"EPERM"' is not assignable to type
export const permission: FaultRule = { errno: 'EPERM' }

// error: 'nht' does not exist in type
export const misspelt: FaultRule = { hang: true, nht: 1 }

// error: is not assignable to type
export const two: FaultRule = { hang: true, lose: true }

// error: is not assignable to type
export const none: FaultRule = { op: 'write' }

// error: Type '"floppy"' is not assignable to type
export const floppy = faults(memory('1M'), { profile: 'floppy' })
