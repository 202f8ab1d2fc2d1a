import { checkFlag } from '../check.js'

/** Only a value other than the default is kept: a record then reads the same as one of an earlier version. */
export function exclusiveOf(exclusive: boolean | undefined): false | undefined {
  checkFlag(exclusive, 'exclusive')
  return exclusive === false ? false : undefined
}
