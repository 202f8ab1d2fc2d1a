import type { CopyMode } from 'ublk-ts'

/** The size of the disks, in bytes. */
export const SIZE = 16 * 2 ** 20

const IN_FILE = new URL('../backends/in-file.js', import.meta.url)
const options = (dir: string): { path: string; size: number } => ({ path: `${dir}/disk`, size: SIZE })

interface Kind {
  /** The expression that creates it in a program. */
  readonly program: (dir: string) => string
  /** The arguments that create it on the command line, if it can. */
  readonly words?: (dir: string) => string[]
  readonly copy: readonly CopyMode[]
  /** Whether native threads can serve it. */
  readonly native: boolean
  readonly resizes: boolean
}

const MEM = (): string[] => ['--mem', `${SIZE}`]

/** The backend whose data ends with its process. */
export const IN_ITS_PROCESS = 'memory'

const TABLE = {
  memory: {
    program: () => `memory(${SIZE})`,
    words: MEM,
    copy: ['copy', 'user'],
    native: true,
    resizes: true,
  },
  null: {
    program: () => `nullDisk(${SIZE})`,
    words: () => ['--null', `${SIZE}`],
    copy: ['copy', 'user'],
    native: true,
    resizes: true,
  },
  file: {
    program: dir => `file('${dir}/disk')`,
    words: dir => ['--file', `${dir}/disk`],
    copy: ['copy', 'zero'],
    native: true,
    resizes: true,
  },
  stripe: {
    program: dir => `stripe([file('${dir}/left'), file('${dir}/right')], { chunk: '16K' })`,
    words: dir => ['--stripe', `${dir}/left,${dir}/right`, '--chunk', '16K'],
    copy: ['copy', 'zero'],
    native: true,
    resizes: false,
  },
  tracked: {
    program: dir => `tracked(file('${dir}/disk'), { map: '${dir}/changes' })`,
    words: dir => ['--file', `${dir}/disk`, '--track', `${dir}/changes`],
    copy: ['copy', 'zero'],
    native: true,
    resizes: true,
  },
  qcow2: {
    program: dir => `qcow2('${dir}/image')`,
    words: dir => ['--qcow2', `${dir}/image`],
    copy: ['copy', 'zero'],
    native: true,
    resizes: false,
  },
  overlay: {
    program: dir => `overlay(file('${dir}/disk'), { upper: '${dir}/upper' })`,
    words: dir => ['--file', `${dir}/disk`, '--overlay', `${dir}/upper`],
    copy: ['copy', 'zero'],
    native: true,
    resizes: true,
  },
  // Its server is started beside it.
  nbd: {
    program: dir => `nbd('nbd+unix:///?socket=${dir}/socket', { journal: '2M' })`,
    words: dir => ['--nbd', `nbd+unix:///?socket=${dir}/socket`, '--journal', '2M'],
    copy: ['copy'],
    native: true,
    resizes: false,
  },
  lazy: {
    program: dir =>
      `lazy({ size: ${SIZE}, cache: '${dir}/cache', fetch: ({ length }) => new Uint8Array(length) })`,
    // Another one: of a file that holds more than the cache, which is filled meanwhile.
    words: dir => ['--lazy', `${dir}/disk`, '--cache', `${dir}/cache`, '--cache-max', '6M', '--fill', 'max'],
    copy: ['copy', 'zero'],
    native: true,
    resizes: false,
  },
  'memory in a file': {
    program: dir => `memory(${SIZE}, { file: '${dir}/memory' })`,
    words: MEM,
    copy: ['copy'],
    native: true,
    resizes: true,
  },
  worker: {
    program: dir => `worker('${IN_FILE}', ${JSON.stringify(options(dir))})`,
    words: dir => ['--worker', IN_FILE.href, '--worker-options', JSON.stringify(options(dir))],
    copy: ['copy', 'user'],
    native: false,
    resizes: true,
  },
  'plain object': {
    program: dir => `(await import('${IN_FILE}')).default(${JSON.stringify(options(dir))})`,
    copy: ['copy', 'user'],
    native: false,
    resizes: true,
  },
} satisfies Record<string, Kind>

export type BackendName = keyof typeof TABLE
export const BACKENDS: Readonly<Record<BackendName, Kind>> = TABLE
