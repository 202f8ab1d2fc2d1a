import { invalid } from '../errors.js'

/** @throws UblkError of kind `invalid`. */
export function checkShare(share: unknown): void {
  const wrong = (value: unknown): boolean => typeof value !== 'string' || value === ''
  if (!Array.isArray(share) || share.some(wrong)) {
    throw invalid('share must be a list of paths of files in memory')
  }
}
