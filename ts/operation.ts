/** The operation of a request. */
export type Operation = 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes'
