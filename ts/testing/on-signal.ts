/**
 * While a disk has rules, a signal that ends this process first frees what hangs there: a thread that waits for the disk, such as
 * in fsync, cannot be killed, and the process would neither end nor let go of the disk.
 */

/** A disk to dispose of when a signal comes. */
type Disposed = { [Symbol.asyncDispose](): Promise<void> }

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

const disks = new Set<Disposed>()

/** Has the disk disposed of when a signal ends this process. Returns what undoes this. */
export function onSignal(disk: Disposed): () => void {
  if (disks.size === 0) for (const signal of SIGNALS) process.on(signal, end)
  disks.add(disk)
  return () => {
    disks.delete(disk)
    if (disks.size === 0) stop()
  }
}

function stop(): void {
  for (const signal of SIGNALS) process.off(signal, end)
}

function end(signal: NodeJS.Signals): void {
  const others = process.listenerCount(signal) > 1 // Somebody else decides whether the process ends.
  void Promise.allSettled([...disks].map(disk => disk[Symbol.asyncDispose]())).then(() => {
    if (others) return
    stop()
    process.kill(process.pid, signal)
  })
}
