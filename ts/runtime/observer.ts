import type * as native from '#binding'
import { inOneLine, onRejection } from '../user-values.js'
import type { Operation } from './js-backend.js'
import type { Report } from './js-disk.js'

/** A range of a disk that was changed. */
export interface DiskChange {
  /** How. */
  readonly op: Extract<Operation, 'write' | 'discard' | 'writeZeroes'>
  /** From where on, in bytes. */
  readonly offset: number
  /** How much, in bytes. */
  readonly length: number
}

/** Takes the changes made since it was last called. */
export type Observe = (changes: readonly DiskChange[]) => void

const OPS: Readonly<Record<number, DiskChange['op']>> = { 1: 'write', 3: 'discard', 4: 'writeZeroes' }

/** Tells an observer what there is to tell. What it throws is reported. */
export function tellChanges(device: native.Device, observe: Observe, report: Report): void {
  const numbers = device.takeChanges()
  if (numbers.length === 0) return
  const changes: DiskChange[] = []
  for (let at = 0; at < numbers.length; at += 3) {
    const [op, offset, length] = numbers.slice(at, at + 3) as [number, number, number]
    changes.push({ op: OPS[op] ?? 'write', offset, length })
  }
  const failed = (error: unknown): void => report(`the observer of changes failed: ${inOneLine(error)}`)
  try {
    onRejection(observe(changes), failed)
  } catch (error) {
    failed(error)
  }
}
