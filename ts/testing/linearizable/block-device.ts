import { existsSync, readFileSync, realpathSync, type Stats, statSync } from 'node:fs'
import { invalid, UblkError } from '../../errors.js'
import { inOneLine } from '../../user-values.js'

/** What the kernel says of a block device. */
export interface BlockDevice {
  /** Its size in bytes. */
  readonly size: number
  /** Its logical block size in bytes. */
  readonly blockSize: number
  /** Whether it accepts discards. */
  readonly discards: boolean
}

/**
 * Looks at a disk or a partition.
 *
 * @throws UblkError of kind `not-found`, or `invalid` if the path is something else.
 */
export function blockDevice(path: string): BlockDevice {
  const stats = statsOf(path)
  if (!stats.isBlockDevice()) throw invalid(`${path} is not a block device`, 'give the path of a disk')
  const { major, minor } = numbersOf(stats.rdev)
  try {
    const dir = realpathSync(`/sys/dev/block/${major}:${minor}`)
    const read = (name: string): number => Number(readFileSync(`${dir}/${name}`, 'utf8'))
    const queue = existsSync(`${dir}/queue`) ? 'queue' : '../queue' // A partition has that of its disk.
    return {
      size: read('size') * 512,
      blockSize: read(`${queue}/logical_block_size`),
      discards: read(`${queue}/discard_max_bytes`) > 0,
    }
  } catch (error) {
    throw new UblkError('not-found', `there is no disk behind ${path}: ${inOneLine(error)}`, { cause: error })
  }
}

function statsOf(path: string): Stats {
  try {
    return statSync(path)
  } catch (error) {
    throw new UblkError('not-found', `there is no disk ${path}: ${inOneLine(error)}`, { cause: error })
  }
}

/** As the kernel packs them for programs. */
function numbersOf(rdev: number): { major: number; minor: number } {
  return { major: (rdev >>> 8) & 0xfff, minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00) }
}
