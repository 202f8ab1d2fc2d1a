import type { Json } from '../json.js'
import type { RecordedOptions } from '../remote/record-file.js'

/** What a server is to do. It travels to a process of its own as JSON. */
export interface Job {
  /** Make a device, take one over whose server is gone, or take one over from the server that it has. */
  readonly action: 'create' | 'recover' | 'take-over'
  /** The device's number; one that is made gets any free one if undefined. */
  readonly id?: number | undefined
  /** What disk it is. */
  readonly options: RecordedOptions
  /** Whether a recovered disk may use another file than before. */
  readonly otherFile?: boolean | undefined
  /** Files that go when the device does. */
  readonly scratch: readonly string[]
  /** How it is to be announced: by its path, or by a line of JSON. */
  readonly announce: 'path' | 'json'
  /** How long it may take until the disk is usable, in milliseconds. */
  readonly timeout: number
  readonly log: JobLog
  /** Whether to serve it in a further process, which is replaced when it dies. */
  readonly autoRestart: boolean
  /** Kept in the record. */
  readonly notes: { readonly [key: string]: Json }
}

/** How a server is to log. */
export interface JobLog {
  readonly form: LogForm
  readonly level: Level
  /** The file that it logs to; stderr is already that file. */
  readonly path: string | null
  /** Whether that is a preliminary name, for as long as the device has no number. */
  readonly nameless: boolean
}

/** How much is logged: everything from this level on. */
export const LEVELS = ['debug', 'info', 'warning', 'error'] as const

/** One of {@link LEVELS}. */
export type Level = (typeof LEVELS)[number]

/**
 * What a line looks like: `plain` is for people at a terminal, `journal` the same with systemd's priority in front,
 * `json` an object with everything that is known.
 */
export type LogForm = 'plain' | 'journal' | 'json'

/** How a server in another process failed, in its own words. */
export class Failed extends Error {
  constructor(
    readonly line: string,
    readonly status: 1 | 2,
  ) {
    super(line)
  }
}
