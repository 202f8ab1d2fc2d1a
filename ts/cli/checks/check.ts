/** `ok`: fine; `warn`: worth knowing; `FAIL`: ublk disks cannot be served until it is remedied. */
export type Status = 'ok' | 'warn' | 'FAIL'

/** What one look at this machine found. */
export interface Check {
  readonly check: string
  readonly status: Status
  /** What was found, in plain words. */
  readonly detail: string
  /** What to do about it. */
  readonly remedy: string | null
}

/** Makes a {@link Check}. */
export function found(check: string, status: Status, detail: string, remedy: string | null = null): Check {
  return { check, status, detail, remedy }
}
