import type { Json } from '../json.js'
import type { RecordedOptions } from '../remote/record-file.js'

/** A server's job. It is sent to a server in another process as JSON. */
export interface Job {
  /** Create a device, recover one whose server has ended, or take one over from its current server. */
  readonly action: 'create' | 'recover' | 'take-over'
  /** The device's number; undefined: a free one for a new device. */
  readonly id?: number | undefined
  /** The options of the device. */
  readonly options: RecordedOptions
  /** Whether a recovered disk may use another file than before. */
  readonly otherFile?: boolean | undefined
  /** Files to remove together with the device. */
  readonly scratch: readonly string[]
  /** How to announce it: by its path, or by a line of JSON. */
  readonly announce: 'path' | 'json'
  /** How long the disk may take to become usable, in milliseconds. */
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
  /** Whether that name is preliminary, because the device has no number yet. */
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
