import { UblkError } from '../errors.js'
import type { Kind } from './kind.js'

/** A state that a power cut may leave, of a disk of this process. */
export interface CrashStateBackend {
  readonly kind: 'crash-state'
  /** Its number in this process. */
  readonly number: number
}

/** What {@link CrashState.disk} makes its disk over. */
export const crashStateKind: Kind<CrashStateBackend> = {
  name: 'crash-state',
  native: true,
  stackable: true,
  check: ({ number }) => ({ kind: 'crash-state', number }),
  toNative: ({ number }) => ({ number }),
  toRecord: () => {
    throw new UblkError('invalid', 'a disk over a state after a power cut cannot be recorded', {
      hint: 'create it with record: false',
    })
  },
  memory: () => null,
  label: ({ number }) => `state ${number}`,
}
