import { basename } from 'node:path'
import type { Reading } from '../watch/readings.js'

/** How many disks are named. */
const MOST_NAMES = 3

/** A line about the disks whose counters cannot be read, if there are some. */
export function untold(readings: readonly Reading[], root: boolean): string | undefined {
  const silent = readings.filter(({ trouble }) => trouble)
  const [first] = silent
  if (!first?.trouble) return undefined
  const names = silent.slice(0, MOST_NAMES).map(({ device }) => basename(device.path))
  const more = silent.length > names.length ? ' and others' : ''
  const which = `${silent.length} of ${readings.length} disks cannot be read (${names.join(', ')}${more})`
  const why = root ? first.trouble.message : 'their servers answer their own user and root'
  return `${which}: ${why}`
}
