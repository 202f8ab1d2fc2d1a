import { fstatSync } from 'node:fs'

/** Whether stderr goes to systemd's journal, which says so in the environment. */
export function logsToJournal(): boolean {
  const { JOURNAL_STREAM: stream } = process.env
  if (stream === undefined) return false
  const { dev, ino } = fstatSync(2)
  return stream === `${dev}:${ino}`
}
