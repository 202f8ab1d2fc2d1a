/** What a request can ask for. */
export type Operation = 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes'
