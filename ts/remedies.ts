/**
 * The words of the API for what the engine's hints leave open: it writes `{force}` where a user of the API passes an option
 * and a user of the command line a flag. The command line's words are in cli/remedies.ts.
 */
export type Remedy =
  | 'force'
  | 'wait'
  | 'read-only'
  | 'other-file'
  | 'not-exclusive'
  | 'cache-bound'
  | 'list'
  | 'features'
  | 'diagnose'

/** What a surface writes for each. */
export type RemedyWords = Readonly<Record<Remedy, string>>

/** For programs. */
export const apiWords: RemedyWords = {
  force: ' (force: true)',
  wait: ' (wait: true)',
  'read-only': ' (readOnly: true)',
  'other-file': ' (otherFile: true)',
  'not-exclusive': ' (exclusive: false)',
  'cache-bound': ' (cacheMax)',
  list: ' (UblkDevice.list() returns them)',
  features: ' (features() says what this one can do)',
  diagnose: '',
}

/** A hint of the engine in the words of a surface. */
export function worded(hint: string, words: RemedyWords): string {
  return hint.replace(/\{([a-z-]+)\}/g, (all, name: string) => words[name as Remedy] ?? all)
}
