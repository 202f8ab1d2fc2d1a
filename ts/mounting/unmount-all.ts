import { readFileSync } from 'node:fs'
import { command } from './program.js'

/** Unmounts a disk and its partitions wherever a command has left them mounted, for this process to see. */
export async function unmountAll({ id, path }: { id: number; path: string }): Promise<void> {
  for (const dir of mountsOf(id, path).reverse()) {
    // What still uses it goes on without the disk.
    await command('umount', [dir]).catch(() => command('umount', ['-l', dir]).catch(() => {}))
  }
}

/** Where it is mounted, in the order of mounting. */
function mountsOf(id: number, path: string): string[] {
  const device = numberOf(id)
  const isOurs = (fields: readonly string[]): boolean => {
    const [, source = ''] = fields.slice(fields.indexOf('-', 6) + 1)
    return fields[2] === device || source === path || new RegExp(`^${path}p\\d+$`).test(source)
  }
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
    .filter(isOurs)
    .map(([, , , , point = '']) =>
      point.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8))),
    )
}

/** Its device number; undefined if the disk is gone. */
function numberOf(id: number): string | undefined {
  try {
    return readFileSync(`/sys/class/block/ublkb${id}/dev`, 'utf8').trim()
  } catch {
    return undefined
  }
}
