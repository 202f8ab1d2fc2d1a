import { readFileSync } from 'node:fs'

/** A disk's mount on a directory. Others may have mounted something there, too. */
export class Mount {
  /** The directory, without symbolic links. */
  readonly dir: string
  /** The disk, such as `/dev/ublkb0`. */
  readonly path: string
  /** Its device number, such as `259:0`. */
  readonly device: string

  constructor({ id, path }: { id: number; path: string }, dir: string) {
    this.dir = dir
    this.path = path
    this.device = readFileSync(`/sys/class/block/ublkb${id}/dev`, 'utf8').trim()
  }

  /** The directory as the kernel's list of mounts has it. */
  get point(): string {
    return this.dir.replace(/[ \t\n\\]/g, char => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`)
  }

  /** Whether the disk is mounted there, perhaps with something else on top. */
  exists(): boolean {
    return this.#owners().includes(true)
  }

  /** Whether the disk is what umount would unmount there. */
  isOnTop(): boolean {
    return this.#owners().at(-1) ?? false
  }

  /** Of each mount on the directory, the lowest first: whether it is the disk's. */
  #owners(): boolean[] {
    return readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map(line => line.split(' '))
      .filter(fields => fields[4] === this.point)
      .map(fields => {
        const [, source] = fields.slice(fields.indexOf('-', 6) + 1)
        return fields[2] === this.device || source === this.path // btrfs has numbers of its own.
      })
  }
}
