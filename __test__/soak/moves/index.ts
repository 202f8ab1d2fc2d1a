import { BIRTHS } from './births.js'
import { ENDING } from './ending.js'
import type { Move } from './move.js'
import { RESIZING } from './resizing.js'
import { SERVING } from './serving.js'
import { WAITING } from './waiting.js'

export type { Move } from './move.js'
export { ENDING }

/** All that may happen to a device. */
export const MOVES: readonly Move[] = [...BIRTHS, ...SERVING, ...RESIZING, ...WAITING, ...ENDING]
