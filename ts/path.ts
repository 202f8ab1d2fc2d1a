import { fileURLToPath } from 'node:url'
import { invalid, wrongType } from './errors.js'
import { inOneLine, nameOf } from './user-values.js'

/**
 * The path in a path or a `file:` URL.
 *
 * @param what - Its name in errors.
 * @throws UblkError of kind `invalid` if it is none.
 */
export function pathOf(path: unknown, what: string): string {
  if (path === undefined || path === '') throw invalid(`${what} is empty`)
  if (path instanceof URL) {
    try {
      return fileURLToPath(path)
    } catch (error) {
      throw invalid(`${what} is ${nameOf(path.href)}: ${inOneLine(error)}`, 'use a path, or a file: URL')
    }
  }
  if (typeof path !== 'string') throw wrongType(`${what} must be text or a file: URL, not ${nameOf(path)}`)
  if (path.includes('\0')) throw invalid(`${what} has a zero byte`)
  return path
}
