/**
 * What hints leave open, since a user of the API passes an option or calls a method, and a user of the command line passes
 * a flag or runs a command: a hint has `{force}` there. The engine's hints have these.
 */
type EngineRemedy =
  | 'force'
  | 'wait'
  | 'read-only'
  | 'other-file'
  | 'not-exclusive'
  | 'cache-bound'
  | 'track'
  | 'faults'
  | 'list'
  | 'features'
  | 'diagnose'

/** Only hints of TypeScript have these. */
export const OWN_REMEDIES = ['recover', 'delete', 'record', 'more-time', 'memory-file', 'overwrite'] as const

type Remedy = EngineRemedy | (typeof OWN_REMEDIES)[number]

/** What a surface writes for each. `{device}` stands for the number of the device. */
export type RemedyWords = Readonly<Record<Remedy, string>>

/** For programs. The command line's words are in cli/remedies.ts. */
export const apiWords: RemedyWords = {
  force: ' (force: true)',
  wait: ' (wait: true)',
  'read-only': ' (readOnly: true)',
  'other-file': ' (otherFile: true)',
  'not-exclusive': ' (exclusive: false)',
  'cache-bound': ' (cacheMax)',
  track: ': tracked(disk, { map })',
  list: ' (UblkDevice.list() returns them)',
  features: ' (features() says what this one can do)',
  diagnose: '',
  recover: 'UblkDevice.recover({device}, …)',
  delete: '(await UblkDevice.open({device})).delete()',
  record: 'the option record',
  'more-time': '',
  'memory-file': ': memory(size, { file })',
  overwrite: ' (overwrite: true)',
  faults: ': faults(disk, rules)',
}

/** A hint in the words of a surface. */
export function worded(hint: string, words: RemedyWords, device: number | undefined): string {
  const said = hint.replace(/\{([a-z-]+)\}/g, (all, name: string) => words[name as Remedy] ?? all)
  return said.replaceAll('{device}', String(device ?? 'ID'))
}
