const counts = new Map<string, number>()
const messages = new Map<string, number>()

/** Counts something that was done. */
export function count(what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1)
}

/** Notes what a command said of its failure, but for numbers and names of files. */
export function told(command: string, stderr: string): void {
  if (stderr === '') return
  const plain = stderr
    .trim()
    .replace(/^ublk-ts: /, '')
    .replaceAll(/\/[\w./-]*\d[\w./-]*/g, 'PATH')
    .replaceAll(/\d+(\.\d+)?/g, 'N')
  const line = `${command}: ${plain}`
  messages.set(line, (messages.get(line) ?? 0) + 1)
}

const slow: string[] = []

/** Notes a command that took long. */
export function noteSlow(what: string): void {
  slow.push(what)
}

/** What was done how often, what commands said, and which were slow. */
export function report(): string {
  const lines = (map: Map<string, number>): string[] =>
    [...map]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([what, often]) => `${String(often).padStart(6)}  ${what}`)
  return [
    ...slow.map(what => `slow: ${what}`),
    'done:',
    ...lines(counts),
    'refused:',
    ...lines(messages),
  ].join('\n')
}
