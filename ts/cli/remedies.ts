import type { RemedyWords } from '../remedies.js'

/** The words of the command line for what the engine's hints leave open. */
export const cliWords: RemedyWords = {
  force: ' (--force)',
  wait: ' (--wait)',
  'read-only': ' (--read-only)',
  'other-file': ' (--other-file)',
  'not-exclusive': ' (--no-exclusive)',
  'cache-bound': ' (--cache-max)',
  list: ' (see ublk-ts list)',
  features: ' (see ublk-ts features)',
  diagnose: ' (see ublk-ts doctor)',
}
