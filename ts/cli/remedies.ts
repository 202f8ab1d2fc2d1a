import type { RemedyWords } from '../remedies.js'

/** The words of the command line for what hints leave open. */
export const cliWords: RemedyWords = {
  force: ' (--force)',
  wait: ' (--wait)',
  'read-only': ' (--read-only)',
  'other-file': ' (--other-file)',
  'not-exclusive': ' (--no-exclusive)',
  'cache-bound': ' (--cache-max)',
  track: ' (--track)',
  list: ' (see ublk-ts list)',
  features: ' (see ublk-ts features)',
  diagnose: ' (see ublk-ts doctor)',
  recover: 'ublk-ts recover {device}',
  delete: 'ublk-ts delete {device}',
  record: 'ublk-ts create',
  'more-time': ' (--timeout)',
  'memory-file': ', as with create --detach',
  overwrite: ' (--overwrite)',
  faults: ' (--fault)',
}
